package servers

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	startMost = 60 * time.Second // a machine may be busy
	stopMost  = 10 * time.Second
	dialEvery = 20 * time.Millisecond
)

// A process is one life of a program. Its output goes to a file.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
	err   error // once ended
}

// run starts a program in a directory of its own and waits until it listens at an address.
func run(ctx context.Context, dir, name, address string, env, command []string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, "log")) //nolint:gosec // A directory of ours.
	if err != nil {
		return nil, fmt.Errorf("making the log of %s: %w", name, err)
	}
	p := &process{name: name, cmd: exec.Command(command[0], command[1:]...), log: log.Name(), ended: make(chan struct{})} //nolint:gosec // Who starts the benchmark names the programs.
	p.cmd.Dir, p.cmd.Env = dir, append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = childAttributes()
	started := make(chan error, 1)
	go func() {
		// The kernel kills the child when the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
		_ = log.Close()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	if err := p.awaitListening(ctx, address); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *process) awaitListening(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startMost)
	defer cancel()
	ticker := time.NewTicker(dialEvery)
	defer ticker.Stop()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.ended:
			return p.whyEnded()
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen at %s: %w", p.name, address, ctx.Err())
		case <-ticker.C:
		}
	}
}

func (p *process) whyEnded() error {
	said, _ := os.ReadFile(p.log)
	return fmt.Errorf("%s ended before it listened (%w): %s", p.name, p.err, strings.TrimSpace(string(said)))
}

// stop lets it end in order, and kills it when that takes too long.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // It may have ended.
	select {
	case <-p.ended:
	case <-time.After(stopMost):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// freePorts are ports of loopback that nobody listens at now.
func freePorts(ctx context.Context, n int) ([]int, error) {
	var ports []int
	var held []net.Listener // until all are found, so that they differ
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	var lc net.ListenConfig
	for range n {
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(loopback, "0"))
		if err != nil {
			return nil, fmt.Errorf("finding a free port: %w", err)
		}
		held = append(held, l)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // It is TCP.
	}
	return ports, nil
}
