package replicas_test

import (
	"testing"

	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

// TestRequestsAreAnsweredWhileRedisIsOut makes it fail under load, in the ways in which it does.
func TestRequestsAreAnsweredWhileRedisIsOut(t *testing.T) {
	t.Parallel()
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
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, tc.args...)
			x := try(t, 2, on(server.Addr))
			x.suffer(t, func() { tc.begin(server) }, func() { tc.end(server) })
			x.check(t, tc.forgets)
		})
	}
}
