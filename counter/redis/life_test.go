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

// TestWhatWasForgottenIsRestoredOnce has two replicas restore what they saw, of which one saw a little more.
func TestWhatWasForgottenIsRestoredOnce(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, time.May, 14, 12, 0, 0, 0, time.UTC)
	limits := []counter.Limit{
		{Key: counter.NewKey("a", "a/b", "a/b/1"), Window: counter.Day, Max: 10},
		{Key: counter.NewKey("a", "a/b", "a/b/2"), Window: counter.Month, Max: 10},
		{Key: counter.NewKey("a", "a/c", "a/c/1"), Window: counter.Minute, Max: 10},
		{Key: counter.NewKey("b", "b/b", "b/b/1"), Window: counter.SlidingHour, Max: 10},
		{Key: counter.NewKey("b", "b/b", "b/b/2"), Window: counter.InUse, Max: 10},
		{Key: counter.NewKey("b", "b/b", "b/b/3"), Window: counter.Day, Max: 10},
	}
	saw := func(n int64) []counter.Count {
		return []counter.Count{
			{Used: n, Reset: noon.Add(12 * time.Hour)},
			{Used: 2 * n, Reset: noon.Add(18 * 24 * time.Hour)},
			{Used: n, Reset: noon},
			{Used: n, Reset: noon.Add(time.Hour)},
			{Used: n},
			{Reset: noon.Add(12 * time.Hour)},
		}
	}
	server := redistest.Start(t)
	for _, n := range []int64{5, 6, 7} {
		if err := open(t, redis.Options{Addresses: []string{server.Addr}}).Restore(t.Context(), noon, limits, saw(n)); err != nil {
			t.Fatal(err)
		}
	}
	counts := make([]counter.Count, len(limits))
	if err := open(t, redis.Options{Addresses: []string{server.Addr}}).Peek(t.Context(), noon, limits, counts); err != nil {
		t.Fatal(err)
	}
	var got []int64
	for _, c := range counts {
		got = append(got, c.Used)
	}
	if diff := cmp.Diff([]int64{5, 10, 0, 0, 0, 0}, got); diff != "" {
		t.Errorf("what is counted (-want +got):\n%s", diff)
	}
}
