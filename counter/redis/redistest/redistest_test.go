package redistest_test

import (
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

func TestAServerComesBackEmptyAtItsAddress(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	addr := s.Addr
	s.Do("set", "a", "1")
	s.Pause()
	s.Resume()
	s.Kill()
	s.Restart()
	if got := s.Do("exists", "a"); got != "0" || s.Addr != addr {
		t.Errorf("after a kill it is at %s, before it was at %s, and the number of keys is %s", s.Addr, addr, got)
	}
	s.Stop()
	s.Restart()
}

func TestAClusterIsWhole(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	if got := strings.Count(c.Nodes[5].Do("cluster", "nodes"), "slave "); got != 3 {
		t.Errorf("a cluster has %d replicas, want 3", got)
	}
}
