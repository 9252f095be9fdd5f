package outage_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/outage"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
	"github.com/tierkeeper/tierkeeper/internal/await"
)

// TestWhatARedisForgetsIsRestored kills a Redis that keeps nothing on disk.
func TestWhatARedisForgetsIsRestored(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	wide, tight := limit(counter.Month, 1000), limit(counter.Month, 100)
	var replicas [2]*replica
	var sets [2]counter.Set
	for i := range replicas {
		shared, err := redis.New(t.Context(), redis.Options{Addresses: []string{server.Addr}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(shared.Close)
		replicas[i] = startPatiently(t, shared, len(replicas))
		sets[i] = replicas[i].LocalShare().Open([]counter.Limit{wide, tight})
	}
	try := func(n int) (sum int) {
		for i := range n {
			at, lease := now(), newLease()
			ok, err := sets[i%2].Acquire(t.Context(), at, lease, at.Add(time.Minute), []int64{2, 1}, make([]counter.Count, 2))
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				sum++
			}
		}
		return sum
	}
	await.True(t, 30*time.Second, "a replica knows the life of the store", func() bool { return server.Do("exists", "tk1:life") == "1" })
	admitted := try(60)
	for _, set := range sets { // so that both have seen the same
		if ok, err := set.Acquire(t.Context(), now(), newLease(), now().Add(time.Minute), []int64{0, 0}, make([]counter.Count, 2)); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	server.Kill()
	admitted += try(20)
	server.Restart()
	await.True(t, 30*time.Second, "both ask the store again", func() bool { return !replicas[0].Stats().Out && !replicas[1].Stats().Out })
	admitted += try(60)
	if admitted != 100 {
		t.Errorf("%d are admitted of 100, by a store that forgot everything after 60", admitted)
	}
	if diff := cmp.Diff([]int64{200, 100}, used(t, replicas[0].LocalShare(), wide, tight)); diff != "" {
		t.Errorf("what is counted in the end (-want +got):\n%s", diff)
	}
}

// startPatiently starts a replica that takes no busy machine for a store that is out.
func startPatiently(t *testing.T, shared outage.Shared, replicas int) *replica {
	t.Helper()
	s := outage.New(t.Context(), shared, outage.Options{
		Deadline: 20 * time.Second, Replicas: func() int { return replicas }, Clock: now, Log: slog.New(slog.DiscardHandler),
	})
	go s.Run(t.Context())
	return &replica{s, func() {}}
}
