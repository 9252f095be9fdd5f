// Tierkeeper keeps rate limits and quotas for AI gateways, written as Kubernetes objects and enforced by Envoy.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tierkeeper/tierkeeper/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	code := command.Execute(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
