// Package envoy_test decides whether the whole path does what it promises: the real program, the real Envoy and the demo
// upstream, each as a process, and clients that know nothing but HTTP. Each test is a claim, on a system of its own.
package envoy_test

import (
	"bytes"
	"errors"
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
	loopback "github.com/tierkeeper/tierkeeper/internal/port"
	"github.com/tierkeeper/tierkeeper/test/program"
)

const (
	startMost = 30 * time.Second // a machine may be busy with other tests
	soon      = 10 * time.Second // for what happens at once on a machine that has nothing else to do
)

var (
	eventually = await.True
	clearOf    = program.ClearOf
)

// binary is the program under test, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv("ENVOY") == "" {
		os.Exit(m.Run()) // Each test says what it lacks.
	}
	program.AtOnce(6) // Some wait for two minutes, and all of them for other processes.
	os.Exit(program.Build(func(path string) int {
		binary = path
		return m.Run()
	}))
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
	port               port
	flags              []string // beside those of the harness
	guest              visitor  // who sends its requests; zero: one who speaks HTTP to its port
	*program.Process
	demo string // host:port of the demo upstream, if it runs
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
	whole := filepath.Join(s.manifests, "."+name) // It is hidden: nobody reads half of it.
	if err := errors.Join(os.WriteFile(whole, []byte(content), 0o600), os.Rename(whole, filepath.Join(s.manifests, name))); err != nil {
		t.Fatal(err)
	}
}

// start runs a process until it serves.
func (s *system) start(t *testing.T) {
	t.Helper()
	p := s.launch(t, s.flags...)
	t.Cleanup(func() { s.ensureStopped(t, p) })
	err := p.Until(t.Context(), func() bool {
		if strings.Contains(p.Stdout.String(), "REJECTED by Envoy") {
			t.Fatal("Envoy rejects its configuration")
		}
		return s.serves(s.port)
	})
	if err != nil {
		t.Fatalf("the gateway does not serve: %v", err)
	}
	if at := regexp.MustCompile(`Demo upstream: http://(\S+) `).FindStringSubmatch(p.Stdout.String()); at != nil {
		s.demo = at[1]
	}
}

// serves says whether the process told that it serves at a port.
func (s *system) serves(at port) bool {
	return strings.Contains(s.Stdout.String(), "://127.0.0.1:"+at.String()+". Try")
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
func (s *system) launch(t *testing.T, flags ...string) *program.Process {
	t.Helper()
	args := append([]string{
		"standalone", "--manifests", relative(t, s.manifests), "--port", s.port.String(), "--envoy", relative(t, envoyBinary(t)),
		"--demo-upstream", "--data-dir", relative(t, s.dataDir), "--log-level", "debug",
	}, flags...)
	s.Process = program.Start(t, exec.Command(binary, args...))
	return s.Process
}

// stop demands that the process ends cleanly and leaves no Envoy behind.
func (s *system) stop(t *testing.T, signal syscall.Signal) {
	t.Helper()
	s.EndsInOrder(t, signal)
	if left := s.envoys(t); len(left) > 0 {
		t.Errorf("Envoys %v outlive their tierkeeper", left)
	}
}

// kill ends the process as a crash would.
func (s *system) kill(t *testing.T) {
	t.Helper()
	if err := s.Kill(); err != nil {
		t.Error(err)
	}
	eventually(t, soon, "Envoy dies with its tierkeeper", func() bool { return len(s.envoys(t)) == 0 })
}

func (s *system) ensureStopped(t *testing.T, p *program.Process) {
	if s.Process == p && !p.HasEnded() {
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

// A port is one that nobody else is given.
type port int

func reservePort(t *testing.T) port {
	t.Helper()
	return port(loopback.Reserve(t))
}

func (p port) String() string { return strconv.Itoa(int(p)) }

func (p port) url() string { return "http://127.0.0.1:" + p.String() }
