package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

var errFault = errors.New("the store fails")

// A fault is when a call to a store fails, if at all: before it has done anything, or after it has done all.
type fault int

const (
	sound fault = iota
	before
	after
)

// faultyStore is a store whose calls fail as fails says, by their number from 1 up and the name of the method.
type faultyStore struct {
	*memory.Store

	calls atomic.Int64
	fails func(call int64, method string) fault
}

type faultySet struct {
	counter.Set

	store *faultyStore
}

func (s *faultyStore) call(method string, do func() error) error {
	how := s.fails(s.calls.Add(1), method)
	if how == before {
		return errFault
	}
	if err := do(); err != nil || how == sound {
		return err
	}
	return errFault
}

func (s *faultyStore) Open(limits []counter.Limit) counter.Set {
	return &faultySet{s.Store.Open(limits), s}
}

func (s *faultySet) Acquire(
	ctx context.Context, now time.Time, id counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (ok bool, err error) {
	err = s.store.call("Acquire", func() error {
		ok, err = s.Set.Acquire(ctx, now, id, expiry, hits, counts)
		return err
	})
	return ok && err == nil, err
}

func (s *faultyStore) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	return s.call("Settle", func() error { return s.Store.Settle(ctx, now, settlement) })
}

func (s *faultyStore) Renew(ctx context.Context, now time.Time, id counter.LeaseID, keys []counter.Key, expiry time.Time) error {
	return s.call("Renew", func() error { return s.Store.Renew(ctx, now, id, keys, expiry) })
}

func (s *faultyStore) Peek(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	return s.call("Peek", func() error { return s.Store.Peek(ctx, now, limits, counts) })
}

// serveFaulty starts a service whose store fails. It must run in a bubble, whose end proves that no goroutine is left.
func serveFaulty(t *testing.T, text string, fails func(int64, string) fault, options ...ratelimit.Option) (*service, *faultyStore) {
	t.Helper()
	s := serveAt(t, nil, text)
	store := &faultyStore{Store: s.store, fails: fails}
	s.Limiter = ratelimit.New(store, secret, append(options, ratelimit.WithClock(s.clock.now))...)
	s.SetTable(s.table)
	return s, store
}

// Wherever the store fails while requests wait for a model, each of them gets its answer in time, and no slot is held for
// longer than one is without a sign of life.
func TestAStoreThatFailsWhileRequestsWaitLeaksNothing(t *testing.T) {
	t.Parallel()
	const text = `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Day, max: 1000}], concurrency: {max: 100}}, queue: {mode: Wait, maxWaitSeconds: 20}}}
models: {gpt: {models: ["gpt-*"], capacity: {
  concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 20}, reserved: [{tierName: plan, concurrentRequests: 1}]}}}
`
	rush := func(t *testing.T, fails func(int64, string) fault) (calls int64) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			s, store := serveFaulty(t, text, fails)
			var all sync.WaitGroup
			for _, patience := range []time.Duration{time.Minute, time.Minute, 1500 * time.Millisecond, 12 * time.Second} {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					began := s.clock.now()
					d, err := s.Reserve(ctx, chat("sk-alice"))
					if took := s.clock.now().Sub(began); took > 20*time.Second {
						t.Errorf("an answer came after %v: %+v, %v", took, d, err)
					}
					if err == nil && d.Status == 0 {
						pause(time.Second)
						_ = s.Settle(t.Context(), &descriptor.Settle{Lease: d.Lease, Code: 200}) // The store may fail.
					}
				})
				synctest.Wait()
			}
			all.Wait()
			pause(ratelimit.SlotExpiry)
			calls = store.calls.Load()
			for what, n := range s.used(t, chat("sk-alice")) {
				if strings.Contains(what, "Concurrent") && n != 0 {
					t.Errorf("%d are held of %s in the end", n, what)
				}
			}
		})
		return calls
	}
	never := func(int64, string) fault { return sound }
	for n := range rush(t, never) {
		for _, how := range []fault{before, after} {
			rush(t, func(call int64, _ string) fault {
				if call == n+1 {
					return how
				}
				return sound
			})
		}
	}
	for _, method := range []string{"Acquire", "Settle", "Renew", "Peek"} {
		for _, how := range []fault{before, after} {
			t.Run(fmt.Sprintf("every %s, %d", method, how), func(t *testing.T) {
				t.Parallel()
				rush(t, func(call int64, m string) fault {
					if call > 1 && m == method {
						return how
					}
					return sound
				})
			})
		}
	}
}

// A queue tries a store that fails again many times a second, and tells of it once a minute.
func TestAStoreThatFailsIsToldSparinglyWhileRequestsWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		var down atomic.Bool
		s, _ := serveFaulty(t, waiting("{concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 90}}", "high1"), func(_ int64, method string) fault {
			if down.Load() && method == "Peek" {
				return before
			}
			return sound
		}, keepLog(everything(&log).Handler()))
		s.pass(t, chat("sk-high1"))
		var all sync.WaitGroup
		all.Go(func() { s.refuse(t, chat("sk-high1"), 503) })
		synctest.Wait()
		down.Store(true)
		all.Wait()
		pause(time.Second)
		if n := strings.Count(log.String(), "could not look for slots"); n != 2 {
			t.Errorf("it is told %d times in 90 seconds, want 2", n)
		}
	})
}
