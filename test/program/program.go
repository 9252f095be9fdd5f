// Package program decides how tests run Tierkeeper, and what stands beside it, as processes: Tierkeeper is built once for all tests of
// a package, and what a process has said is shown where a test fails.
package program

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/internal/await"
	"github.com/tierkeeper/tierkeeper/internal/child"
)

const (
	endMost   = 20 * time.Second
	waitDelay = 5 * time.Second // an Envoy that outlives its parent holds stderr open
)

// Build builds Tierkeeper for those who use it by its path, and deletes it after them. It returns what they return, the exit code of a
// TestMain, or 1.
func Build(use func(path string) int) int {
	dir, err := os.MkdirTemp("", "tierkeeper-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "tierkeeper")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/tierkeeper/tierkeeper").CombinedOutput(); err != nil { //nolint:gosec // A path of ours.
		fmt.Fprintf(os.Stderr, "building tierkeeper: %v\n%s", err, out)
		return 1
	}
	return use(path)
}

// AtOnce lets at least n tests run at once, however few the cores, unless somebody said how many: for tests that mostly wait. Only a
// TestMain may call it.
func AtOnce(n int) {
	flag.Parse()
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if !said && flag.Set("test.parallel", strconv.Itoa(max(n, runtime.GOMAXPROCS(0)))) != nil {
		panic("the flag test.parallel is gone")
	}
}

// A Process is one life of a program that a test has started.
type Process struct {
	*child.Process

	Stdout, Stderr child.Output
}

// Start runs a program and returns at once. It is killed with the test, if it has not ended by then.
func Start(t *testing.T, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &p.Stdout, &p.Stderr, waitDelay
	var err error
	if p.Process, err = child.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Kill() // It has ended, unless the test failed.
		if t.Failed() {
			t.Logf("stdout of %v:\n%s\nstderr:\n%s", cmd.Args, &p.Stdout, withoutChatter(p.Stderr.String()))
		}
	})
	return p
}

// withoutChatter leaves out what Envoy tells whether or not something is wrong.
func withoutChatter(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "][info]") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// Says waits until the process has said something on its stdout, and returns the first group of the pattern. The test fails if the
// process ends before.
func (p *Process) Says(t *testing.T, pattern string) string {
	t.Helper()
	line := regexp.MustCompile(pattern)
	var found []string
	err := p.Until(t.Context(), func() bool {
		found = line.FindStringSubmatch(p.Stdout.String())
		return found != nil
	})
	if err != nil {
		t.Fatalf("a process does not say %q: %v", pattern, err)
	}
	return found[1]
}

// Result waits for the end of a process that ends by itself, and returns how it ended.
func (p *Process) Result(t *testing.T) error {
	t.Helper()
	await.True(t, endMost, "the process ends", p.HasEnded)
	return p.Err()
}

// EndsInOrder demands that the process ends with exit code 0 when it gets a signal.
func (p *Process) EndsInOrder(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := errors.Join(p.End(signal), p.Err()); err != nil {
		t.Errorf("a process ended with %v after the signal: %s; want exit code 0", err, signal)
	}
}

// ClearOf waits, if the calendar window ends within a minute, until the next one has begun: so that what follows happens in one
// window.
func ClearOf(t *testing.T, window time.Duration) {
	t.Helper()
	await.True(t, 2*time.Minute, "the next window begins", func() bool {
		now := time.Now()
		return now.Truncate(window).Add(window).Sub(now) > time.Minute
	})
}
