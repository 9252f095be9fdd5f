package outage_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
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
		sets[i] = replicas[i].open(wide, tight)
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
	wantUsed(t, "what is counted in the end", []int64{200, 100}, replicas[0].LocalShare(), wide, tight)
}
