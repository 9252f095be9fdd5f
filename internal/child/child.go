// Package child decides how this process runs another program: nothing outlives it, Ctrl-C in a terminal does not reach what it runs,
// and who has started something can wait until that is ready, and end it.
package child

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	askEvery  = 20 * time.Millisecond
	startMost = time.Minute // a machine may be busy
	stopMost  = 20 * time.Second
)

// A Process is one life of a program. It is safe for concurrent use.
type Process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once err is set
	err   error
}

// Start starts a program, in a process group of its own. On Linux the kernel kills it when this process ends, however it ends.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = attributes()
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel kills the child when the thread that started it ends, not the process: it must not end before.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// HasEnded says whether Ended is closed.
func (p *Process) HasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Err is how the process has ended, as exec.Cmd.Wait says it. It must not be called before Ended is closed.
func (p *Process) Err() error { return p.err }

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Until asks every 20 ms until the process is ready. It fails if the process ends before, with ctx, and after a minute.
func (p *Process) Until(ctx context.Context, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startMost)
	defer cancel()
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for !ready() {
		select {
		case <-p.ended:
			return fmt.Errorf("it ended: %s", p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("waiting for it: %w", ctx.Err())
		case <-ticker.C:
		}
	}
	return nil
}

// Pause makes the process stand still until Resume.
func (p *Process) Pause() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (p *Process) Resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// Stop lets the process end in order: see End.
func (p *Process) Stop() error { return p.End(syscall.SIGTERM) }

// Kill ends the process at once.
func (p *Process) Kill() error { return p.End(syscall.SIGKILL) }

// End sends a signal, and waits until the process has ended, paused or not. How it ended is no error. One that goes on for 20 seconds
// is killed, and that is the error.
func (p *Process) End(signal syscall.Signal) error {
	_ = p.cmd.Process.Signal(signal) // It may have ended.
	_ = p.Resume()
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopMost):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s went on for %s after the signal: %s", p.cmd, stopMost, signal)
	}
}
