package ratelimit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// slowStore is a store whose caller loses patience while it counts.
type slowStore struct {
	*memory.Store

	loseCaller func()
}

type slowSet struct {
	counter.Set

	loseCaller func()
}

func (s *slowStore) Open(limits []counter.Limit) counter.Set {
	return &slowSet{s.Store.Open(limits), s.loseCaller}
}

func (s *slowSet) Acquire(
	ctx context.Context, now time.Time, id counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (bool, error) {
	ok, err := s.Set.Acquire(ctx, now, id, expiry, hits, counts)
	s.loseCaller()
	return ok, err
}

// Envoy waits two seconds. What was charged for a request that it has answered by then must not stay charged.
func TestAnAnswerThatComesTooLateCostsNothing(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(`{rates: [{metric: Requests, per: Day, max: 5}, {metric: Tokens, per: Day, max: 100}], concurrency: {max: 1}}`))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.Limiter = ratelimit.New(&slowStore{s.store, cancel}, secret, ratelimit.WithClock(s.clock.now))
	s.SetTable(s.table)

	if d, err := s.Reserve(ctx, chat("sk-alice")); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %+v and error %v, want that the call is cancelled", d, err)
	}
	want := map[string]int64{"Key Requests per Day": 0, "Key Tokens per Day": 0, "Key ConcurrentRequests": 0}
	if diff := cmp.Diff(want, s.used(t, chat("sk-alice"))); diff != "" {
		t.Errorf("what the counters hold (-want +got):\n%s", diff)
	}
}
