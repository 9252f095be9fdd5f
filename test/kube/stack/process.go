package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/tierkeeper/tierkeeper/internal/child"
)

// A Process is one life of one program.
type Process struct {
	*child.Process

	Name    string
	Address string // that it said it listens at, if it was to say one
	log     string // file
}

// run starts a program whose output goes to a log, and waits until a line of its output matches; the first group of the match is
// its Address. Without a pattern nothing is waited for.
func (s *Stack) run(ctx context.Context, name string, ready *regexp.Regexp, program string, args ...string) (*Process, error) {
	log, err := s.log(name)
	if err != nil {
		return nil, err
	}
	var said child.Output
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, io.MultiWriter(log, &said), log
	started, err := child.Start(cmd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", name, err), log.Close())
	}
	go func() {
		<-started.Ended()
		_ = log.Close()
	}()
	p := &Process{Process: started, Name: name, log: filepath.Join(s.Dir, name+".log")}
	s.stops = append(s.stops, p.Stop)
	if ready == nil {
		return p, nil
	}
	err = p.Until(ctx, func() bool {
		match := ready.FindStringSubmatch(said.String())
		if match != nil {
			p.Address = match[1]
		}
		return match != nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s is not ready: %w; its log is %s", name, err, p.log), p.Kill())
	}
	return p, nil
}

// Memory is how much of the machine's memory it takes, in bytes, without what is only files: that the system can have back. It is
// known on Linux only.
func (p *Process) Memory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
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
