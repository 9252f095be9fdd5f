// Package redistest starts real Redis servers for tests, and makes them fail in the ways in which they do: paused, killed, started
// again. It decides nothing about what is stored in them.
package redistest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// wait is how long anything may take before a test fails.
const wait = 30 * time.Second

// A Server is a redis-server on 127.0.0.1 that keeps nothing on disk. Its methods fail the test when they cannot do what they
// say. They must not be called at once.
type Server struct {
	// Addr is HOST:PORT. It stays the same when the server is started again.
	Addr string

	tb       testing.TB
	config   []string // the file, if there is one
	portFlag string
	args     []string
	cli      []string // what redis-cli must be given
	ready    string   // what it says when it accepts connections
	cmd      *exec.Cmd
	done     chan struct{} // closed when the process has ended
	out      *output
}

// Start starts a server with more arguments, such as "--requirepass", "secret", and ends it with the test. Where there is no
// redis-server the test is skipped, or fails if REQUIRE_REDIS is 1.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	need(tb)
	s := &Server{tb: tb, ready: "Ready to accept connections", portFlag: "--port"}
	s.args = append([]string{"--dir", tb.TempDir(), "--save", "", "--appendonly", "no"}, args...)
	tb.Cleanup(s.Kill)
	s.startSomewhere()
	return s
}

// StartTLS starts a server that speaks nothing but TLS, with clients that have certificates. The files hold its certificate, the
// key of that, and the authorities that it believes, in PEM.
func StartTLS(tb testing.TB, cert, key, authorities string, args ...string) *Server {
	tb.Helper()
	need(tb)
	files := []string{"--cert", cert, "--key", key, "--cacert", authorities}
	s := &Server{tb: tb, ready: "Ready to accept connections", portFlag: "--tls-port", cli: append([]string{"--tls"}, files...)}
	s.args = append([]string{
		"--port", "0", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", authorities, "--dir", tb.TempDir(), "--save", "", "--appendonly", "no",
	}, args...)
	tb.Cleanup(s.Kill)
	s.startSomewhere()
	return s
}

// StartSentinel starts a sentinel that watches a server, and its replicas, by the name of main.
func StartSentinel(tb testing.TB, watched *Server) *Server {
	tb.Helper()
	host, port, _ := strings.Cut(watched.Addr, ":")
	file := filepath.Join(tb.TempDir(), "sentinel.conf")
	config := fmt.Sprintf("sentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n", host, port)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, ready: "+monitor master", portFlag: "--port", args: []string{"--sentinel"}, config: []string{file}}
	tb.Cleanup(s.Kill)
	s.startSomewhere()
	return s
}

func need(tb testing.TB) {
	tb.Helper()
	for _, program := range []string{"redis-server", "redis-cli"} {
		_, err := exec.LookPath(program)
		switch {
		case err == nil:
		case os.Getenv("REQUIRE_REDIS") == "1":
			tb.Fatalf("There is no %s on the PATH: run make redis.", program)
		default:
			tb.Skipf("This test needs %s: run make redis.", program)
		}
	}
}

// startSomewhere starts it at a free port. Somebody else may take that first: then at another.
func (s *Server) startSomewhere() {
	s.tb.Helper()
	for range 10 {
		s.Addr = "127.0.0.1:" + strconv.Itoa(freePort(s.tb))
		if s.tryStart() {
			return
		}
	}
	s.tb.Fatalf("redis-server does not start:\n%s", s.out)
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // It does not wait.
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()    // So that it is free.
	return l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // It is one.
}

// tryStart returns false if the process ends before it accepts connections.
func (s *Server) tryStart() bool {
	s.tb.Helper()
	_, port, _ := strings.Cut(s.Addr, ":")
	args := slices.Concat(s.config, []string{s.portFlag, port, "--bind", "127.0.0.1"}, s.args)
	s.cmd, s.done, s.out = exec.Command("redis-server", args...), make(chan struct{}), newOutput(s.ready) //nolint:noctx,gosec // It ends with the test.
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.SysProcAttr = s.out, s.out, attributes()
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatalf("starting redis-server: %v", err)
	}
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // It is ended by signals.
		close(done)
	}(s.cmd, s.done)
	select {
	case <-s.out.ready:
		return true
	case <-s.done:
		return false
	case <-time.After(wait):
		s.tb.Fatalf("redis-server is not ready after %v:\n%s", wait, s.out)
		return false
	}
}

// Restart starts a server that was stopped or killed, at the same address and empty.
func (s *Server) Restart() {
	s.tb.Helper()
	if !s.tryStart() {
		s.tb.Fatalf("redis-server does not start again:\n%s", s.out)
	}
}

// Stop ends the server in order.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the server at once. A server that has ended stays as it is.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Pause makes the server stand still, with its connections open, until Resume.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) end(sig syscall.Signal) {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	s.signal(sig)
	select {
	case <-s.done:
	case <-time.After(wait):
		s.tb.Errorf("redis-server goes on after %v", sig)
	}
}

func (s *Server) signal(sig syscall.Signal) {
	select {
	case <-s.done:
	default:
		if err := s.cmd.Process.Signal(sig); err != nil {
			s.tb.Errorf("sending %v to redis-server: %v", sig, err)
		}
	}
}

// Do runs a command, such as "config", "set", "maxmemory", "1mb", as redis-cli does, and returns its answer.
func (s *Server) Do(command ...string) string {
	s.tb.Helper()
	answer, err := s.try(command...)
	if err != nil {
		s.tb.Fatalf("%v: %v: %s", command, err, answer)
	}
	return answer
}

func (s *Server) try(command ...string) (string, error) {
	host, port, _ := strings.Cut(s.Addr, ":")
	out, err := exec.Command("redis-cli", slices.Concat([]string{"-e", "-h", host, "-p", port}, s.cli, command)...).CombinedOutput() //nolint:noctx,gosec // It is brief.
	return strings.TrimSpace(string(out)), err
}

// An output is what a process says. Ready is closed when it accepts connections.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	sign  string // that it accepts connections
	said  bool
	ready chan struct{}
}

func newOutput(sign string) *output { return &output{sign: sign, ready: make(chan struct{})} }

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.text.Write(p)
	if !o.said && bytes.Contains(o.text.Bytes(), []byte(o.sign)) {
		o.said = true
		close(o.ready)
	}
	return n, err
}

// String is all that was said.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
