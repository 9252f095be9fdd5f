package servers

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tierkeeper/tierkeeper/internal/child"
	"github.com/tierkeeper/tierkeeper/internal/port"
)

// logName is the file with what a program says, in its directory.
const logName = "log"

// run starts a program in a directory of its own, where its output goes to a file, and waits until it listens at an address.
func run(ctx context.Context, dir, name, address string, env, command []string) (*child.Process, error) {
	log, err := os.Create(filepath.Join(dir, logName)) //nolint:gosec // A directory of ours.
	if err != nil {
		return nil, fmt.Errorf("making the log of %s: %w", name, err)
	}
	defer func() { _ = log.Close() }()              // The program has it open too.
	cmd := exec.Command(command[0], command[1:]...) //nolint:gosec // Who starts the benchmark names the programs.
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := child.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	if err := p.Until(ctx, func() bool { return listens(ctx, address) }); err != nil {
		_ = p.Stop()
		return nil, fmt.Errorf("%s does not listen at %s: %w: %s", name, address, err, said(log.Name()))
	}
	return p, nil
}

// said is what a program has said, for people.
func said(log string) string {
	text, err := os.ReadFile(log) //nolint:gosec // A file of ours.
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

func listens(ctx context.Context, address string) bool {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// holdPort returns a port of loopback that nobody else is given before this process ends.
func holdPort() (int, error) {
	held, _, err := port.Hold()
	return held, err
}
