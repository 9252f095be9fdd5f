// Sidebyside measures Tierkeeper's rate-limit service beside others: in one run on one machine, in turn, with the same calls. It
// prints figures and what they mean against the project's budgets, and refuses to judge while other work disturbs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitDone      = 0
	exitFailed    = 1
	exitUsage     = 2
	exitDisturbed = 3 // other work left too few rounds that say anything
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	code := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "Error: %v\n", err)
	if failed, ok := errors.AsType[*workError](err); ok {
		return failed.status
	}
	return exitUsage
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sidebyside",
		Short: "Measure the rate-limit service beside others",
		Long: `Measure Tierkeeper's rate-limit service beside others, in one run on one machine.

Every figure is of one round, in which each server is loaded for a while, one right after the other. Ratios are those of the same
round; what is printed is the median of all rounds, with the least and the largest. Rounds during which other work took 0.35
of a core or more are dropped and repeated. Where too few are left the exit status is 3.

It needs Linux, whose /proc tells what processes take.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newPeers(), newEnvoy(), newProfile(), newFloor(), newUpstream())
	root.CompletionOptions.DisableDefaultCmd = true
	return root
}

// A workError is one of the work, and not of the command line.
type workError struct {
	error

	status int
}

// Unwrap gives the reason.
func (e *workError) Unwrap() error { return e.error }

// work marks what a command's work returns.
func work(f func(*cobra.Command) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		err := f(cmd)
		if err == nil {
			return nil
		}
		status := exitFailed
		if _, ok := errors.AsType[*disturbedError](err); ok {
			status = exitDisturbed
		}
		return &workError{err, status}
	}
}
