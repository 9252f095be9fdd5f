// Package command decides what the program is asked to do: which commands there are, what they take, what they print and
// what they exit with. The work itself is done elsewhere.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1 // the work failed, or something is not accepted
	exitUsage  = 2 // the command line makes no sense
)

// commands makes each command, in the order in which help lists them.
var commands = []func() *cobra.Command{
	newStandalone,
	newOperator,
	newRatelimit,
	newCompile,
	newEffective,
	newKeygen,
	newBootstrap,
	newBlocks,
	newUsage,
	newShadow,
	newVersion,
}

// Execute runs the command line args, the program's own name first, and returns the exit code. When ctx ends the command
// comes to its end early.
func Execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(displayName(args[0]))
	root.SetArgs(ofPlugin(args))
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "Error: %v\n", err)
	if _, ok := errors.AsType[*workError](err); ok {
		return exitFailed
	}
	fmt.Fprintf(stderr, "Run \"%s --help\" to see what it takes.\n", cmd.CommandPath())
	return exitUsage
}

func newRoot(name string) *cobra.Command {
	root := &cobra.Command{
		Use:   "tierkeeper",
		Short: "Rate limits and quotas for AI gateways, as Kubernetes objects, enforced by Envoy",
		Long: `Tierkeeper keeps rate limits and quotas for AI gateways.

What a plan allows (RateLimitTier), what a model can bear (ModelLimit), who holds which API key (ApiKeyQuota), what one user
may use with all keys together (UserQuota) and which Envoys enforce it (QuotaGateway) stand in manifests.

Without a cluster, standalone serves the manifests of a directory, and compile and effective say what is made of them. In a
cluster, operator and ratelimit do the work, and effective says what holds there. A running service is asked by usage, blocks and
shadow.`,
		Example: `  # Say whether each manifest of a directory is accepted, and why not.
  {{name}} compile -f config/samples/quickstart

  # List every limit that holds for one key, and the object that each comes from.
  {{name}} effective -f config/samples/quickstart --key default/demo-free

  # The same, of the cluster of your kubeconfig.
  {{name}} effective --key team-a/ci`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: name},
		Version:       version(),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("{{.Version}}\n")
	for _, command := range commands {
		root.AddCommand(command())
	}
	nameIn(root, name)
	return root
}

// nameIn writes the name of the program into the examples of the command and of those below it.
func nameIn(c *cobra.Command, name string) {
	c.Example, c.Long = strings.ReplaceAll(c.Example, "{{name}}", name), strings.ReplaceAll(c.Long, "{{name}}", name)
	for _, below := range c.Commands() {
		nameIn(below, name)
	}
}

// displayName is how help calls the program. kubectl finds a plugin by its file's name and runs it as a command of its own.
func displayName(program string) string {
	base := strings.TrimSuffix(filepath.Base(program), ".exe")
	if plugin, ok := strings.CutPrefix(base, "kubectl-"); ok {
		return "kubectl " + plugin
	}
	return "tierkeeper"
}

// ofPlugin is what follows the program's name. kubectl completes a plugin's arguments by running a program of another name.
func ofPlugin(args []string) []string {
	if strings.HasPrefix(filepath.Base(args[0]), "kubectl_complete-") {
		return append([]string{cobra.ShellCompRequestCmd}, args[1:]...)
	}
	return args[1:]
}

// flagsOnly is for Args. It answers a directory that stands without its flag with the form that the command has.
func flagsOnly(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q has no flag before it; the form is: %s", args[0], cmd.UseLine())
	}
	return nil
}

// A workError says that the command line made sense and the work failed. Every other error is one of usage.
type workError struct{ error }

func (e *workError) Unwrap() error { return e.error }

// work is for RunE: what run returns is a failure of the work. The command line itself is checked in Args and PreRunE.
func work(run func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := run(cmd, args); err != nil {
			return &workError{err}
		}
		return nil
	}
}
