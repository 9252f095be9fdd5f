package command

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/demo"
	"github.com/tierkeeper/tierkeeper/standalone"
)

// logLevels are the levels of --log-level and what Envoy calls them.
var logLevels = map[string]struct {
	own   slog.Level
	envoy string
}{
	"debug": {slog.LevelDebug, "info"},
	"info":  {slog.LevelInfo, "error"},
	"warn":  {slog.LevelWarn, "error"},
	"error": {slog.LevelError, "critical"},
}

func newStandalone() *cobra.Command {
	var (
		c        standalone.Config
		port     uint16
		logLevel string
	)
	cmd := &cobra.Command{
		Use:   "standalone --manifests DIR",
		Short: "Run everything in one process, without Kubernetes",
		Long: `Run everything in one process, without Kubernetes.

The directory holds the same YAML that a cluster would: RateLimitTiers, ModelLimits, ApiKeyQuotas, UserQuotas and
QuotaGateways, with the Secrets and Namespaces that they name. It is watched: an edit is in force with the next
request, and no count is lost. A broken file keeps the last good state. An Envoy is started for each QuotaGateway, and
again if it dies. Counters of a minute and more are kept in the data directory and survive a restart.

` + demo.Help(),
		Example: `  # Try a directory of manifests against a fake provider.
  {{name}} standalone --manifests config/samples/quickstart --demo-upstream

  # Serve on another port, with an Envoy that is not on the PATH.
  {{name}} standalone --manifests /etc/tierkeeper --port 9000 --envoy /opt/envoy/bin/envoy

  # Start Envoy yourself: the command to do so is printed.
  {{name}} standalone --manifests /etc/tierkeeper --envoy none`,
		Args: flagsOnly,
		PreRunE: func(*cobra.Command, []string) error {
			if _, ok := logLevels[logLevel]; !ok {
				return fmt.Errorf("--log-level %q is not one of debug, info, warn, error", logLevel)
			}
			return nil
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			if c.DataDir == "" {
				dir, err := defaultDataDir(c.Manifests)
				if err != nil {
					return err
				}
				c.DataDir = dir
			}
			level := logLevels[logLevel]
			c.Port = uint32(port)
			c.Out, c.EnvoyOut, c.EnvoyLog = cmd.OutOrStdout(), cmd.ErrOrStderr(), level.envoy
			c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level.own}))
			return standalone.Run(cmd.Context(), c)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&c.Manifests, "manifests", "", "directory of manifests, or one file")
	flags.StringVar(&c.Address, "address", "127.0.0.1", "address that listeners bind to; 0.0.0.0 serves every network")
	flags.Uint16Var(&port, "port", 0, "port to serve in the place of the gateway's own (for one gateway with one listener)")
	flags.StringVar(&c.Envoy, "envoy", "envoy", `Envoy binary, 1.40 or newer; "none" starts none and prints how to`)
	flags.StringVar(&c.MetricsAddress, "metrics-address", "127.0.0.1:0", `address at which Prometheus finds metrics; port 0 is one of the kernel's choice, "none" serves none`)
	flags.StringVar(&c.AdminAddress, "admin-address", "127.0.0.1:0", `address at which operators ask who is blocked; port 0 is one of the kernel's choice, "none" serves nothing`)
	flags.StringVar(&c.AdminTokenFile, "admin-token-file", "", "file with the token that operators must bring; needed where --admin-address is not of loopback, and read at the start")
	flags.BoolVar(&c.DemoUpstream, "demo-upstream", false, "start a fake provider and send the requests of every backend to it")
	flags.StringVar(&c.DataDir, "data-dir", "", "directory for counters and what was last accepted (default: one for these manifests in the user's state directory)")
	flags.StringVar(&c.ExampleKey, "example-key", "", "API key to write into the curl lines that are printed")
	flags.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error; debug tells what each request reserved and cost")
	must(cmd.MarkFlagRequired("manifests"))
	must(cmd.MarkFlagDirname("manifests"))
	must(cmd.MarkFlagDirname("data-dir"))
	must(cmd.MarkFlagFilename("admin-token-file"))
	must(cmd.RegisterFlagCompletionFunc("log-level", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp
	}))
	return cmd
}

// defaultDataDir gives each directory of manifests its own place, so that two of them do not share counters.
func defaultDataDir(manifests string) (string, error) {
	path, err := filepath.Abs(manifests)
	if err != nil {
		return "", fmt.Errorf("finding the data directory (or name one with --data-dir): %w", err)
	}
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("finding the data directory (or name one with --data-dir): %w", err)
		}
		base = filepath.Join(home, ".local", "state")
	}
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(base, "tierkeeper", strings.Join([]string{filepath.Base(path), hex.EncodeToString(sum[:4])}, "-")), nil
}

// must is for what only a mistake in this package can make fail.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
