// Package replicas_test decides whether several replicas of the rate-limit service count as one: the real program, as processes
// of their own, on real Redis servers that are made to fail, and callers that speak Envoy's protocol. Each test is a claim, on an
// installation of its own. Figures are printed, and only generous bounds asserted: what they are worth depends on the machine.
package replicas_test

import (
	"bytes"
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
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	pollEvery = 20 * time.Millisecond
	startMost = 30 * time.Second // a machine may be busy with other tests
	stopMost  = 20 * time.Second
	soon      = 30 * time.Second // for what happens within seconds on a machine that has nothing else to do
)

// binary is the program under test, built by TestMain.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if _, err := exec.LookPath("redis-server"); err != nil {
		return m.Run() // Each test says what it lacks.
	}
	waitMoreThanCompute()
	dir, err := os.MkdirTemp("", "tierkeeper-replicas-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "tierkeeper")
	if out, err := exec.Command("go", "build", "-o", binary, "../..").CombinedOutput(); err != nil { //nolint:noctx // It ends by itself.
		fmt.Fprintf(os.Stderr, "building tierkeeper: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// waitMoreThanCompute lets more tests run at once than there are cores, unless somebody said how many: most of the time they wait.
func waitMoreThanCompute() {
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	n := strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))
	if !said && flag.Set("test.parallel", n) != nil {
		panic("the flag test.parallel is gone")
	}
}

// A process is one life of the program.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr *transcript
	ended          chan struct{} // closed once err is set
	err            error
}

// execute runs the program and returns at once. It is killed with the test, if it has not ended by then.
func execute(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(binary, args...), stdout: &transcript{}, stderr: &transcript{}, ended: make(chan struct{})} //nolint:noctx // See above.
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // It has ended, unless the test failed.
		<-p.ended
		if t.Failed() {
			t.Logf("stdout of %v:\n%s\nstderr:\n%s", p.cmd.Args, p.stdout, p.stderr)
		}
	})
	return p
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// await waits for the end of the process, however it ends.
func (p *process) await(t *testing.T) error {
	t.Helper()
	timer := time.NewTimer(stopMost)
	defer timer.Stop()
	select {
	case <-p.ended:
		return p.err
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		t.Errorf("tierkeeper did not end within %s", stopMost)
		return errors.New("killed by the test")
	}
}

// stop demands that the process ends in order.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("stopping: %v", err)
	}
	if err := p.await(t); err != nil {
		t.Errorf("tierkeeper ended with %v, want exit code 0", err)
	}
}

// says waits until the process has written a line, and returns the first group of the pattern.
func (p *process) says(t *testing.T, pattern string) string {
	t.Helper()
	var found []string
	eventually(t, startMost, "the process says "+pattern, func() bool {
		if p.hasEnded() {
			t.Fatalf("tierkeeper ended instead of serving: %v", p.err)
		}
		found = regexp.MustCompile(pattern).FindStringSubmatch(p.stdout.String())
		return found != nil
	})
	return found[1]
}

// A transcript keeps what a process writes.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// write makes a file in a folder of the test's own, and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, limit time.Duration, what string, ask func() bool) {
	t.Helper()
	timer, ticker := time.NewTimer(limit), time.NewTicker(pollEvery)
	defer timer.Stop()
	defer ticker.Stop()
	for !ask() {
		select {
		case <-ticker.C:
		case <-timer.C:
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// pass lets the load go on for a while: what is waited for is that it has.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// clearOf waits, if the calendar window ends within a minute, until the next one has begun: so that what follows happens in one
// window.
func clearOf(t *testing.T, window time.Duration) {
	t.Helper()
	eventually(t, 2*time.Minute, "the next window begins", func() bool {
		now := time.Now()
		return now.Truncate(window).Add(window).Sub(now) > time.Minute
	})
}

// joined are manifests of some documents.
func joined(docs ...string) string { return strings.Join(docs, "\n---\n") }
