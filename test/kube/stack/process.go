package stack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	startMost = 60 * time.Second // a machine may be busy
	stopMost  = 15 * time.Second
)

// A Process is one life of one program.
type Process struct {
	Name    string
	Address string // that it said it listens at, if it was to say one
	cmd     *exec.Cmd
	log     string // file
	ended   chan struct{}
	err     error // once ended
}

// run starts a program whose output goes to a log, and waits until a line of its output matches; the first group of the match is
// its Address. Without a pattern nothing is waited for.
func (s *Stack) run(ctx context.Context, name string, ready *regexp.Regexp, program string, args ...string) (*Process, error) {
	log, err := s.log(name)
	if err != nil {
		return nil, err
	}
	p := &Process{Name: name, cmd: exec.Command(program, args...), log: filepath.Join(s.Dir, name+".log"), ended: make(chan struct{})}
	p.cmd.Dir = s.Dir
	p.cmd.SysProcAttr = childAttributes()
	out, in := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = io.MultiWriter(log, in), log
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
		_, _ = in.Close(), log.Close()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	lines := make(chan string, 1)
	go func() {
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			if ready != nil {
				if match := ready.FindStringSubmatch(scanner.Text()); match != nil {
					select {
					case lines <- match[1]:
					default:
					}
				}
			}
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	s.stops = append(s.stops, p.Stop)
	if ready == nil {
		return p, nil
	}
	select {
	case p.Address = <-lines:
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("%s ended before it was ready (%w); its log is %s/%s.log", name, p.err, s.Dir, name)
	case <-time.After(startMost):
		return nil, errors.Join(fmt.Errorf("%s was not ready after %s; its log is %s/%s.log", name, startMost, s.Dir, name), p.Kill())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), p.Kill())
	}
}

// Stop lets it end in order.
func (p *Process) Stop() error {
	return p.end(syscall.SIGTERM)
}

// Kill ends it at once.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL) }

func (p *Process) end(signal syscall.Signal) error {
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Signal(signal) // It may have ended.
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopMost):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not stop within %s", p.Name, stopMost)
	}
}

// Pause stops it from doing anything, and Resume lets it go on.
func (p *Process) Pause() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (p *Process) Resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// Memory is how much of the machine's memory it takes, in bytes, without what is only files: that the system can have back. It is
// known on Linux only.
func (p *Process) Memory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of %s: %w", p.Name, err)
	}
	var kib int64
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("the memory of %s is not told", p.Name)
}

// Log is what it has said so far.
func (p *Process) Log() ([]byte, error) { return os.ReadFile(p.log) }

// Ended is closed when it has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }
