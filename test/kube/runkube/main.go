// Runkube runs a whole installation of Tierkeeper on this machine, a real Kubernetes API server included, until it is
// interrupted, and says how to use it with kubectl.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"

	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var c stack.Config
	c.AddFlags(flag.CommandLine)
	flag.StringVar(&c.Dir, "dir", ".data/kube", "folder for data, logs and the kubeconfig")
	flag.Parse()
	c.Say = func(format string, args ...any) { fmt.Printf(format+"\n", args...) } //nolint:forbidigo // It is for people.
	s, err := stack.Start(ctx, c)
	if err != nil {
		return err
	}
	err = serve(ctx, s)
	c.Say("stopping")
	return errors.Join(err, s.Stop())
}

func serve(ctx context.Context, s *stack.Stack) error {
	if _, err := s.StartOperator(ctx, "operator-0"); err != nil {
		return err
	}
	service, err := s.StartService(ctx, "ratelimit-0")
	if err != nil {
		return err
	}
	address, err := adminAddress(service)
	if err != nil {
		return err
	}
	kubeconfig, err := s.Administrator()
	if err != nil {
		return err
	}
	s.Say(`
The API server, the operator and the rate-limit service run; logs are in %s. In another terminal:

  export KUBECONFIG=%s
  kubectl apply -f config/samples/quickstart
  kubectl wait --for=condition=Ready --all qgw,rlt,akq
  kubectl get akq -o wide

  export TIERKEEPER_ADMIN=%s
  bin/tierkeeper usage                    # who uses most; also blocks and shadow
  bin/tierkeeper effective --key demo-free

An Envoy is started for each QuotaGateway, and a fake provider stands in for all backends. If you have no kubectl, there is
one in bin/kube. Ctrl-C stops; the objects are gone then.
`, s.Dir, kubeconfig, address)
	return s.KeepEnvoys(ctx, service.Address)
}

var admin = regexp.MustCompile(`Admin: (\S+)`)

// adminAddress is where the service says that operators can ask it. Its log goes back to earlier runs.
func adminAddress(service *stack.Process) (string, error) {
	log, err := service.Log()
	if err != nil {
		return "", fmt.Errorf("finding the admin address of the service: %w", err)
	}
	said := admin.FindAllSubmatch(log, -1)
	if len(said) == 0 {
		return "", fmt.Errorf("the log of %s names no admin address", service.Name)
	}
	return string(said[len(said)-1][1]), nil
}
