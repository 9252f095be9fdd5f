// Package envoy_test decides whether the whole path does what it promises: the real program, the real Envoy and the demo
// upstream, each as a process, and clients that know nothing but HTTP. Each test is a claim, on a system of its own.
package envoy_test

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

	"golang.org/x/sys/unix"
)

const (
	pollEvery = 20 * time.Millisecond
	startMost = 30 * time.Second // a machine may be busy with other tests
	stopMost  = 15 * time.Second
	soon      = 10 * time.Second // for what happens at once on a machine that has nothing else to do
)

// binary is the program under test, built by TestMain.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if os.Getenv("ENVOY") == "" {
		return m.Run()
	}
	waitMoreThanCompute()
	dir, err := os.MkdirTemp("", "tierkeeper-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "tierkeeper")
	if out, err := exec.Command("go", "build", "-o", binary, "../..").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building tierkeeper: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// waitMoreThanCompute lets more tests run at once than there are cores, unless somebody said how many: some wait for two
// minutes, and all of them wait for other processes.
func waitMoreThanCompute() {
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	n := strconv.Itoa(max(6, runtime.GOMAXPROCS(0)))
	if !said && flag.Set("test.parallel", n) != nil {
		panic("the flag test.parallel is gone")
	}
}

// envoyBinary is the Envoy to run. Without one the test is skipped, or fails where nothing may be skipped.
func envoyBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ENVOY")
	switch {
	case path != "" && runtime.GOOS == "linux":
		return path
	case os.Getenv("REQUIRE_ENVOY") == "1":
		t.Fatal("ENVOY names no Envoy to test with, or this is not Linux: run make test-envoy on Linux.")
	default:
		t.Skip("This test needs Linux and a real Envoy: run it with make test-envoy.")
	}
	return ""
}

// A system is one data directory, one directory of manifests and one port, and the process that runs on them.
type system struct {
	manifests, dataDir string
	port               *port
	flags              []string // beside those of the harness
	guest              visitor  // who sends its requests; zero: one who speaks HTTP to its port
	*process
}

// A process is one life of tierkeeper standalone, or of tierkeeper ratelimit.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr *transcript
	ended          chan struct{} // closed once err is set
	err            error
	demo           string // host:port of the demo upstream, if it runs
}

// prepare makes everything but the process. Files are by name, relative to the directory of manifests.
func prepare(t *testing.T, files map[string]string) *system {
	t.Helper()
	envoyBinary(t)
	s := &system{manifests: t.TempDir(), dataDir: t.TempDir(), port: reservePort(t)}
	for name, content := range files {
		s.write(t, name, content)
	}
	t.Cleanup(func() {
		for _, left := range s.envoys(t) { // that there are any has failed the test already
			_ = syscall.Kill(left, syscall.SIGKILL)
		}
	})
	return s
}

// start prepares a system and runs it until it serves. At the end of the test it must stop in order.
func start(t *testing.T, files map[string]string) *system {
	t.Helper()
	s := prepare(t, files)
	s.start(t)
	return s
}

// withoutDemo is for providers of the test's own.
const withoutDemo = "--demo-upstream=false"

// startWithoutDemo is start for a test that has providers of its own.
func startWithoutDemo(t *testing.T, files map[string]string) *system {
	t.Helper()
	s := prepare(t, files)
	s.flags = []string{withoutDemo}
	s.start(t)
	return s
}

func (s *system) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.manifests, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs a process until it serves.
func (s *system) start(t *testing.T) {
	t.Helper()
	p := s.launch(t, s.flags...)
	t.Cleanup(func() { s.ensureStopped(t, p) })
	eventually(t, startMost, "the gateway serves", func() bool {
		if p.hasEnded() {
			t.Fatalf("tierkeeper ended instead of serving: %v", p.err)
		}
		if strings.Contains(p.stdout.String(), "REJECTED by Envoy") {
			t.Fatal("Envoy rejects its configuration")
		}
		return p.serves(s.port)
	})
	if at := regexp.MustCompile(`Demo upstream: http://(\S+) `).FindStringSubmatch(p.stdout.String()); at != nil {
		p.demo = at[1]
	}
}

// serves says whether the process told that it serves at a port.
func (p *process) serves(at *port) bool {
	return strings.Contains(p.stdout.String(), "://127.0.0.1:"+at.String()+". Try")
}

// relative writes a path as seen from the working directory.
func relative(t *testing.T, path string) string {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	path, err = filepath.Rel(here, path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// launch runs a process and returns at once. Flags that are given go before those of the harness. Paths are relative, as a
// person writes them: Envoy runs in a directory of its own and must be found all the same.
func (s *system) launch(t *testing.T, flags ...string) *process {
	t.Helper()
	args := append([]string{
		"standalone", "--manifests", relative(t, s.manifests), "--port", s.port.String(), "--envoy", relative(t, envoyBinary(t)),
		"--demo-upstream", "--data-dir", relative(t, s.dataDir), "--log-level", "debug",
	}, flags...)
	s.process = execute(t, args...)
	return s.process
}

// execute runs a process of the program and returns at once.
func execute(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(binary, args...), stdout: &transcript{}, stderr: &transcript{}, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.WaitDelay = 5 * time.Second // an Envoy that outlives its parent holds stderr open
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("stdout of %v:\n%s", p.cmd.Args, p.stdout)
			t.Logf("stderr:\n%s", p.stderr.withoutChatter())
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

func (p *process) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Errorf("sending %s: %v", signal, err)
	}
}

// stop demands that the process ends cleanly and leaves no Envoy behind.
func (s *system) stop(t *testing.T, signal syscall.Signal) {
	t.Helper()
	s.signal(t, signal)
	if err := s.await(t); err != nil {
		t.Errorf("tierkeeper ended with %v on %s, want exit code 0", err, signal)
	}
	if left := s.envoys(t); len(left) > 0 {
		t.Errorf("Envoys %v outlive their tierkeeper", left)
	}
}

// kill ends the process as a crash would.
func (s *system) kill(t *testing.T) {
	t.Helper()
	s.signal(t, syscall.SIGKILL)
	_ = s.await(t) // a process that is killed ends with an error
	eventually(t, soon, "Envoy dies with its tierkeeper", func() bool { return len(s.envoys(t)) == 0 })
}

func (s *system) ensureStopped(t *testing.T, p *process) {
	if s.process == p && !p.hasEnded() {
		s.stop(t, syscall.SIGTERM)
	}
}

// envoys are the ids of the Envoys that were started from this system's data directory. One that has ended and waits to be
// noticed has no command line any more.
func (s *system) envoys(t *testing.T) []int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, file := range lines {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(line, []byte(s.dataDir+"/envoy-")) {
			continue // it may have ended meanwhile
		}
		id, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, id)
	}
	return found
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

// withoutChatter leaves out what Envoy tells whether or not something is wrong.
func (w *transcript) withoutChatter() string {
	var b strings.Builder
	for line := range strings.Lines(w.String()) {
		if !strings.Contains(line, "][info]") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// A port is held by a socket that is bound and does not listen. Envoy's listeners allow ports to be shared (SO_REUSEPORT),
// so Envoy can listen on it, again and again, while nobody else is given it.
type port struct {
	fd     int
	number int
}

func reservePort(t *testing.T) *port {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return &port{fd: fd, number: bound.(*unix.SockaddrInet4).Port} //nolint:forcetypeassert // It was bound as such.
}

func (p *port) String() string { return strconv.Itoa(p.number) }

func (p *port) url() string { return "http://127.0.0.1:" + p.String() }

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

// clearOf waits, if the calendar window ends within a minute, until the next one has begun: so that what follows happens in
// one window.
func clearOf(t *testing.T, window time.Duration) {
	t.Helper()
	eventually(t, 2*time.Minute, "the next window begins", func() bool {
		now := time.Now()
		return now.Truncate(window).Add(window).Sub(now) > time.Minute
	})
}
