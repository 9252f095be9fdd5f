package redis_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

func lifeOf(t *testing.T, s *redis.Store) string {
	t.Helper()
	life, err := s.Life(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return life
}

func TestALifeEndsWhenEverythingIsForgotten(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, other := open(t, redis.Options{Addresses: []string{server.Addr}}), open(t, redis.Options{Addresses: []string{server.Addr}})
	before := lifeOf(t, one)
	if lifeOf(t, other) != before || lifeOf(t, one) != before {
		t.Error("the store has several lives at once")
	}
	server.Do("flushall")
	if lifeOf(t, other) == before {
		t.Error("the store has forgotten everything and lives on")
	}
}

// TestARestartIsAnotherLife unless everything was kept: what stood on disk may be old.
func TestARestartIsAnotherLife(t *testing.T) {
	t.Parallel()
	for _, appends := range []string{"no", "yes"} {
		server := redistest.Start(t, "--save", "3600 1", "--appendonly", appends)
		before := lifeOf(t, open(t, redis.Options{Addresses: []string{server.Addr}}))
		server.Do("save")
		server.Kill()
		server.Restart()
		after := open(t, redis.Options{Addresses: []string{server.Addr}})
		if same := lifeOf(t, after) == before; same != (appends == "yes") {
			t.Errorf("with appendonly %s it is the same life: %t", appends, same)
		}
		if life := lifeOf(t, after); life != lifeOf(t, after) {
			t.Errorf("with appendonly %s a life ends by itself", appends)
		}
	}
}

// counted is what the counters of limits hold.
func counted(t *testing.T, s *redis.Store, limits []counter.Limit) (used []int64) {
	t.Helper()
	counts := make([]counter.Count, len(limits))
	if err := s.Peek(t.Context(), noon, limits, counts); err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		used = append(used, c.Used)
	}
	return used
}

// TestAsMuchIsRestoredAsAnybodySaw has three replicas restore what they saw, and requests be admitted meanwhile.
func TestAsMuchIsRestoredAsAnybodySaw(t *testing.T) {
	t.Parallel()
	limits := []counter.Limit{
		{Key: counter.NewKey("a", "a/b", "a/b/1"), Window: counter.Day, Max: 100},
		{Key: counter.NewKey("a", "a/b", "a/b/2"), Window: counter.Month, Max: 100},
		{Key: counter.NewKey("a", "a/c", "a/c/1"), Window: counter.Minute, Max: 100},
		{Key: counter.NewKey("b", "b/b", "b/b/1"), Window: counter.SlidingHour, Max: 100},
		{Key: counter.NewKey("b", "b/b", "b/b/2"), Window: counter.InUse, Max: 100},
		{Key: counter.NewKey("b", "b/b", "b/b/3"), Window: counter.Day, Max: 100},
	}
	_, midnight := counter.Day.Bounds(noon)
	_, march := counter.Month.Bounds(noon)
	saw := func(n int64) []counter.Count {
		return []counter.Count{{Used: n, Reset: midnight}, {Used: 2 * n, Reset: march}, {Used: n, Reset: noon}, {Used: n, Reset: noon.Add(time.Hour)}, {Used: n}, {Reset: midnight}}
	}
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	restores := func(n int64) {
		t.Helper()
		if err := open(t, redis.Options{Addresses: []string{server.Addr}}).Restore(t.Context(), noon, limits, saw(n)); err != nil {
			t.Fatal(err)
		}
	}
	acquire(t, s, noon, limits[0])
	restores(5)
	acquire(t, s, noon, limits[:2]...)
	restores(10)
	restores(7)
	if diff := cmp.Diff([]int64{12, 21, 0, 0, 0, 0}, counted(t, s, limits)); diff != "" {
		t.Errorf("of what a store has forgotten that replicas saw hold 5, 10 and 7 (-want +got):\n%s", diff)
	}
	server.Do("flushall")
	lifeOf(t, s) // as it is learnt after an outage
	if err := s.Restore(t.Context(), noon, limits, saw(12)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{12, 24, 0, 0, 0, 0}, counted(t, s, limits)); diff != "" {
		t.Errorf("when it has forgotten everything again (-want +got):\n%s", diff)
	}
}

// TestWhatAnOldSnapshotLacksIsRestored kills a Redis whose counters were written to disk when they held 10, and that had 30 since.
func TestWhatAnOldSnapshotLacksIsRestored(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--save", "3600 1")
	limits := []counter.Limit{some("a", counter.Day, 100), some("b", counter.Day, 100)}
	start := func() *redis.Store {
		s := open(t, redis.Options{Addresses: []string{server.Addr}})
		lifeOf(t, s)
		return s
	}
	take := func(s *redis.Store, n int) {
		for range n {
			acquire(t, s, noon, limits...)
		}
	}
	_, midnight := counter.Day.Bounds(noon)
	restore := func(s *redis.Store, saw int64) {
		t.Helper()
		if err := s.Restore(t.Context(), noon, limits[:1], []counter.Count{{Used: saw, Reset: midnight}}); err != nil {
			t.Fatal(err)
		}
	}
	s := start()
	restore(s, 2) // of another life
	take(s, 8)
	server.Do("save")
	take(s, 20)
	server.Kill()
	server.Restart()

	s = start()
	restore(s, 29)
	take(s, 3)
	restore(start(), 30)
	restore(start(), 25)
	if diff := cmp.Diff([]int64{33, 11}, counted(t, s, limits)); diff != "" {
		t.Errorf("what is counted after 30, of which 29 and 30 were seen, and 3 (-want +got):\n%s", diff)
	}
}
