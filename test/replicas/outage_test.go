package replicas_test

import (
	"net"
	"os/exec"
	"testing"

	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

// TestRequestsAreAnsweredWhileRedisIsOut makes it fail under load, in the ways in which it does.
func TestRequestsAreAnsweredWhileRedisIsOut(t *testing.T) {
	t.Parallel()
	var loaded <-chan struct{}
	for name, tc := range map[string]struct {
		args       []string
		begin, end func(*redistest.Server)
		forgets    bool
	}{
		"killed, and back empty": {
			begin: (*redistest.Server).Kill, end: (*redistest.Server).Restart, forgets: true,
		},
		"killed, and back with what it wrote": {
			args: []string{"--appendonly", "yes"}, begin: (*redistest.Server).Kill, end: (*redistest.Server).Restart,
		},
		"paused": {begin: (*redistest.Server).Pause, end: (*redistest.Server).Resume},
		"without memory": {
			begin: func(s *redistest.Server) { s.Do("config", "set", "maxmemory", "1") },
			end:   func(s *redistest.Server) { s.Do("config", "set", "maxmemory", "0") },
		},
		"read only": {
			begin: func(s *redistest.Server) { s.Do("replicaof", "127.0.0.1", "1") },
			end:   func(s *redistest.Server) { s.Do("replicaof", "no", "one") },
		},
		"loading": {
			args: []string{"--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024"},
			begin: func(s *redistest.Server) {
				s.Do("debug", "populate", "3000")
				s.Do("config", "set", "key-load-delay", "1000") // in microseconds
				loaded = cli(s, "debug", "reload")
			},
			end: func(*redistest.Server) { <-loaded },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, tc.args...)
			x := try(t, on(server.Addr))
			x.suffer(t, func() { tc.begin(server) }, func() { tc.end(server) })
			x.check(t, tc.forgets)
		})
	}
}

// cli runs a command that takes a while, and closes the channel when it has ended.
func cli(s *redistest.Server, command ...string) <-chan struct{} {
	host, port, _ := net.SplitHostPort(s.Addr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = exec.Command("redis-cli", append([]string{"-h", host, "-p", port}, command...)...).Run() //nolint:noctx // Whoever waits for it sees what it did.
	}()
	return done
}
