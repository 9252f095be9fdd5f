package command

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tierkeeper/tierkeeper/mtls"
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

// commonFlags are those of the commands that run until they are stopped.
type commonFlags struct {
	standalone.Common

	logLevel string
	memory   memoryFlags
}

func (f *commonFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.Manifests, "manifests", "", "directory of manifests, or one file")
	flags.StringVar(&f.MetricsAddress, "metrics-address", "127.0.0.1:0", `address at which Prometheus finds metrics; port 0 is one of the kernel's choice, "none" serves none`)
	flags.StringVar(&f.AdminAddress, "admin-address", "127.0.0.1:0", `address at which operators ask what keys use, who is blocked, and what is only tried; port 0 is one of the kernel's choice, "none" serves nothing`)
	flags.StringVar(&f.AdminTokenFile, "admin-token-file", "", "file with the token that operators must bring; needed where --admin-address is not of loopback, and read at the start")
	flags.StringVar(&f.PprofAddress, "pprof-address", "", "address of Go's profiler, which nothing protects where it is not of loopback (default: it is not served)")
	flags.StringVar(&f.DataDir, "data-dir", "", "directory for counters and what was last accepted (default: one for these manifests in the user's state directory)")
	flags.StringVar(&f.LeaseKeyFile, "lease-key-file", "", "file with the key that signs what Envoy holds of each request, in one line; a second line is the key before (default: one that is made in the data directory)")
	must(cmd.MarkFlagDirname("manifests"))
	must(cmd.MarkFlagDirname("data-dir"))
	must(cmd.MarkFlagFilename("admin-token-file"))
	f.memory.add(cmd)
	addLogLevel(cmd, &f.logLevel, "; debug tells what each request reserved and cost")
}

func addLogLevel(cmd *cobra.Command, level *string, more string) {
	cmd.Flags().StringVar(level, "log-level", "info", "debug, info, warn or error"+more)
	must(cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp)))
}

func checkLogLevel(level string) error {
	if _, ok := logLevels[level]; !ok {
		return fmt.Errorf("--log-level %q is not one of debug, info, warn, error", level)
	}
	return nil
}

// addTLSFlags adds the flags by which a server and its clients believe each other.
func addTLSFlags(cmd *cobra.Command, files *mtls.Files) {
	flags := cmd.Flags()
	flags.StringVar(&files.Cert, "cert", "", "file with the certificate of this process, in PEM; read anew when it changes")
	flags.StringVar(&files.Key, "key", "", "file with its private key, in PEM")
	flags.StringVar(&files.CA, "ca", "", "file with the authorities from which certificates of the other side may come, in PEM")
	for _, name := range []string{"cert", "key", "ca"} {
		must(cmd.MarkFlagFilename(name))
	}
}

// check finds what makes no sense.
func (f *commonFlags) check() error {
	return errors.Join(checkLogLevel(f.logLevel), f.memory.check())
}

// complete sets what no flag says.
func (f *commonFlags) complete(cmd *cobra.Command) (err error) {
	if f.DataDir == "" {
		if f.DataDir, err = defaultDataDir(f.Manifests); err != nil {
			return err
		}
	}
	f.Out = cmd.OutOrStdout()
	f.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: logLevels[f.logLevel].own}))
	return nil
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
