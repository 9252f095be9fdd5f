package standalone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tierkeeper/tierkeeper/internal/child"
	"github.com/tierkeeper/tierkeeper/policy"
)

const (
	envoyMajor, envoyMinor = 1, 40 // the first that reads AI protocols as we need it
	envoyStop              = 3 * time.Second
	dialEvery              = 50 * time.Millisecond
)

// checkEnvoy says why a binary cannot be used: it is not there, not Envoy, or too old.
func checkEnvoy(ctx context.Context, path string) error {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return fmt.Errorf("asking Envoy for its version: %w", err)
	}
	version := regexp.MustCompile(`/(\d+)\.(\d+)\.(\d+)`).FindStringSubmatch(string(out))
	if version == nil {
		return fmt.Errorf("%s does not say that it is Envoy", path)
	}
	major, _ := strconv.Atoi(version[1])
	minor, _ := strconv.Atoi(version[2])
	if major < envoyMajor || major == envoyMajor && minor < envoyMinor {
		return fmt.Errorf("%s is Envoy %s; at least %d.%d is needed", path, strings.TrimPrefix(version[0], "/"), envoyMajor, envoyMinor)
	}
	return nil
}

// runEnvoy runs one Envoy until it dies or ctx ends, and does not let it outlive this process.
func (f *fleet) runEnvoy(ctx context.Context, g *policy.Gateway, bootstrap string, first bool) error {
	dir, err := os.MkdirTemp("", "tierkeeper-envoy-")
	if err != nil {
		return fmt.Errorf("making a directory for Envoy: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()

	// The component's log would quote paths, and so keys in query parameters.
	cmd := exec.CommandContext(ctx, f.Envoy, "-c", bootstrap, "--disable-hot-restart", //nolint:gosec // The user names the binary.
		"-l", f.EnvoyLog, "--component-log-level", "http:critical,http2:critical,filter:critical,router:critical,misc:error")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = f.EnvoyOut, f.EnvoyOut
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = envoyStop
	running, err := child.Start(cmd)
	if err != nil {
		return fmt.Errorf("starting Envoy: %w", err)
	}
	up, giveUp := context.WithCancel(ctx)
	defer giveUp()
	for _, d := range f.doors(g) {
		go f.announce(up, g, d, first)
	}
	<-running.Ended()
	if err := running.Err(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("running Envoy: %w", err)
	}
	return nil
}

// announce tells people where to send requests once somebody listens there. At a port without its certificates nobody may.
func (f *fleet) announce(ctx context.Context, g *policy.Gateway, d door, first bool) {
	if awaitListener(ctx, d.address) == nil {
		f.console.serving(g, d, f.Config, first)
	}
}

func awaitListener(ctx context.Context, at string) error {
	ticker := time.NewTicker(dialEvery)
	defer ticker.Stop()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp", at)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// checkFree says that a port is taken, which Envoy would not: it shares a port with any other Envoy of the same user.
func checkFree(ctx context.Context, at string) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil //nolint:nilerr // Nobody listens: that is what is wanted.
	}
	_ = conn.Close()
	return fmt.Errorf("something listens on %s already; choose another port, with --port or in the gateway", at)
}
