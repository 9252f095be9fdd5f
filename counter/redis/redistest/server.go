// Package redistest starts real Redis servers for tests, and makes them fail in the ways in which they do: paused, killed, started
// again. It decides nothing about what is stored in them.
package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/internal/await"
	"github.com/tierkeeper/tierkeeper/internal/child"
	"github.com/tierkeeper/tierkeeper/internal/port"
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
	process  *child.Process
	out      *child.Output
}

// Start starts a server with more arguments, such as "--requirepass", "secret", and ends it with the test. Where there is no
// redis-server the test is skipped, or fails if REQUIRE_REDIS is 1.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	need(tb)
	s := &Server{tb: tb, ready: "Ready to accept connections", portFlag: "--port"}
	s.args = append([]string{"--dir", tb.TempDir(), "--save", "", "--appendonly", "no"}, args...)
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
	s.startSomewhere()
	return s
}

// StartSentinels starts n sentinels that watch a server, and its replicas, by the name of main, and waits until they know of each other.
// A replica takes the place of a server that most of them have not heard of for the time of patience. Sentinels that cannot agree who
// sees to it try again after 10 seconds.
func StartSentinels(tb testing.TB, n int, watched *Server, patience time.Duration) []*Server {
	tb.Helper()
	need(tb)
	host, port, _ := strings.Cut(watched.Addr, ":")
	config := fmt.Sprintf("sentinel monitor main %s %s %d\nsentinel down-after-milliseconds main %d\nsentinel failover-timeout main 5000\n",
		host, port, n/2+1, patience.Milliseconds())
	all := make([]*Server, n)
	for i := range all {
		file := filepath.Join(tb.TempDir(), "sentinel.conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			tb.Fatal(err)
		}
		all[i] = &Server{tb: tb, ready: "+monitor master", portFlag: "--port", args: []string{"--sentinel"}, config: []string{file}}
		all[i].startSomewhere()
	}
	for _, s := range all {
		await.True(tb, wait, "a sentinel knows of the others", func() bool {
			return strings.Contains(s.Do("sentinel", "master", "main"), fmt.Sprintf("\nnum-other-sentinels\n%d\n", n-1))
		})
	}
	return all
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

// startSomewhere starts it at a port that is its own until the test ends. A node of a cluster needs another beside it, which may not
// be free: then somewhere else.
func (s *Server) startSomewhere() {
	s.tb.Helper()
	s.tb.Cleanup(func() {
		if s.process != nil {
			s.Kill()
		}
	})
	for range 10 {
		s.Addr = "127.0.0.1:" + strconv.Itoa(port.Reserve(s.tb))
		if s.tryStart() {
			return
		}
	}
	s.tb.Fatalf("redis-server does not start:\n%s", s.out)
}

// tryStart returns false if the process ends before it accepts connections.
func (s *Server) tryStart() bool {
	s.tb.Helper()
	_, at, _ := strings.Cut(s.Addr, ":")
	args := slices.Concat(s.config, []string{s.portFlag, at, "--bind", "127.0.0.1"}, s.args)
	cmd := exec.Command("redis-server", args...) //nolint:gosec // Tests name them.
	s.out = &child.Output{}
	cmd.Stdout, cmd.Stderr = s.out, s.out
	var err error
	if s.process, err = child.Start(cmd); err != nil {
		s.tb.Fatalf("starting redis-server: %v", err)
	}
	err = s.process.Until(s.tb.Context(), func() bool { return strings.Contains(s.out.String(), s.ready) })
	if err != nil && !s.process.HasEnded() {
		s.tb.Fatalf("redis-server is not ready: %v\n%s", err, s.out)
	}
	return err == nil
}

// Restart starts a server that was stopped or killed, at the same address and empty.
func (s *Server) Restart() {
	s.tb.Helper()
	if !s.tryStart() {
		s.tb.Fatalf("redis-server does not start again:\n%s", s.out)
	}
}

// Stop ends the server in order.
func (s *Server) Stop() { s.must(s.process.Stop) }

// Kill ends the server at once. A server that has ended stays as it is.
func (s *Server) Kill() { s.must(s.process.Kill) }

// Pause makes the server stand still, with its connections open, until Resume.
func (s *Server) Pause() { s.must(s.process.Pause) }

// Resume ends a Pause.
func (s *Server) Resume() { s.must(s.process.Resume) }

func (s *Server) must(do func() error) {
	s.tb.Helper()
	if err := do(); err != nil {
		s.tb.Errorf("redis-server: %v", err)
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
