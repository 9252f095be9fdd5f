package redis_test

import (
	"context"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

const enough = 30 * time.Second // for what happens on loopback, however busy the machine

// TestReplicasCountThemselves also shows that one that leaves is missed by those that come after it.
func TestReplicasCountThemselves(t *testing.T) {
	t.Parallel()
	s := open(t, redis.Options{Addresses: []string{redistest.Start(t).Addr}})
	join := func() (r *redis.Replicas, leave func()) {
		r = s.Join()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.Run(ctx)
		}()
		leave = func() { cancel(); <-done }
		t.Cleanup(leave)
		return r, leave
	}
	first, leave := join()
	if n := first.Count(); n != 1 {
		t.Errorf("a replica that has heard nothing counts %d, want itself", n)
	}
	second, _ := join()
	eventually(t, "the second knows of the first", func() bool { return second.Count() == 2 })
	leave()
	third, _ := join()
	eventually(t, "the third has been counted", func() bool { return third.Count() == 2 })
}

// TestAReplicaDoesNotForgetOthersWithItsStore has a store come back empty, and one replica be the first to find it.
func TestAReplicaDoesNotForgetOthersWithItsStore(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	first, second := s.Join(), s.Join()
	says := func(r *redis.Replicas, want int) {
		t.Helper()
		if err := r.Announce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := r.Count(); got != want {
			t.Errorf("a replica counts %d, want %d", got, want)
		}
	}
	says(first, 1)
	says(second, 2)
	says(first, 2)
	server.Do("flushall")
	for range 2 {
		says(first, 2)
	}
	says(first, 1) // The second has had its time.
}

// TestANameFromTheFutureIsNoReplica has names that nobody would ever forget.
func TestANameFromTheFutureIsNoReplica(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r := open(t, redis.Options{Addresses: []string{server.Addr}}).Join()
	server.Do("zadd", "tk1:replicas", "+inf", "a", "9e15", "b")
	if err := r.Announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.Count(); n != 1 {
		t.Errorf("a replica counts %d, want itself", n)
	}
}

// TestAProbeTellsWhetherTheStoreCanBeWritten makes Redis refuse in the ways in which it does.
func TestAProbeTellsWhetherTheStoreCanBeWritten(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	probe := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), enough)
		defer cancel()
		return s.Probe(ctx)
	}
	sound := func(after string) {
		t.Helper()
		if err := probe(); err != nil {
			t.Fatalf("%s: %v", after, err)
		}
	}
	sound("at the start")
	server.Do("config", "set", "maxmemory", "1")
	if probe() == nil {
		t.Error("a Redis whose memory is full passes")
	}
	server.Do("config", "set", "maxmemory", "0")
	sound("when there is room again")
	server.Do("replicaof", "127.0.0.1", "1")
	if probe() == nil {
		t.Error("a Redis that is read only passes")
	}
	server.Do("replicaof", "no", "one")
	sound("when it is a master again")
	server.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if s.Probe(ctx) == nil {
		t.Error("a Redis that stands still passes")
	}
	server.Resume()
	eventually(t, "it answers again", func() bool { return probe() == nil })
	server.Kill()
	if probe() == nil {
		t.Error("a Redis that is not there passes")
	}
	server.Restart()
	eventually(t, "it answers after a restart", func() bool { return probe() == nil })
}

func TestAProbeLooksAtAllOfACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, "--cluster-require-full-coverage", "no")
	s := open(t, redis.Options{Addresses: cluster.Addrs()})
	if err := s.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, master := range cluster.Nodes[:3] {
		master.Pause()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if s.Probe(ctx) == nil {
			t.Errorf("a cluster whose master %d stands still passes", i)
		}
		cancel()
		master.Resume()
		eventually(t, "it answers again", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), enough)
			defer cancel()
			return s.Probe(ctx) == nil
		})
	}
}
