package ratelimit_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

func TestEditingANumberKeepsTheCount(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Requests Hour 5")))
	for range 3 {
		s.pass(t, chat("sk-alice"))
	}
	s.apply(t, oneTier(rates("Requests Hour 4")))
	if got := headersOf(t, s.pass(t, chat("sk-alice")))["X-RateLimit-Used"]; got != "4" {
		t.Errorf("%s are used, want 4", got)
	}
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
	s.apply(t, oneTier(rates("Requests Hour 2")))
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
	s.apply(t, oneTier(rates("Requests Hour 6")))
	s.pass(t, chat("sk-alice"))
	s.pass(t, chat("sk-alice"))
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
}

func TestChangingTheTierKeepsTheCount(t *testing.T) {
	t.Parallel()
	tiers := `
tiers: {small: {limits: ` + rates("Requests Hour 2") + `}, large: {limits: ` + rates("Requests Hour 5") + `}}
quotas: {team/alice: {tierRef: {name: `
	s := serve(t, tiers+"small}}}")
	s.pass(t, chat("sk-alice"))
	s.pass(t, chat("sk-alice"))
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
	s.apply(t, tiers+"large}}}")
	if got := headersOf(t, s.pass(t, chat("sk-alice")))["X-RateLimit-Remaining"]; got != "2" {
		t.Errorf("%s remain, want 2 of 5", got)
	}
	s.apply(t, tiers+"small}}}")
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
}

func TestARequestIsSettledByWhatHeldWhenItBegan(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{rates: [{metric: Tokens, per: Hour, max: 100}], concurrency: {max: 1}}"))
	d := s.pass(t, outputOf(100))
	s.apply(t, oneTier("{}"))
	s.end(t, d, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Output: 40}})
	s.apply(t, oneTier("{rates: [{metric: Tokens, per: Hour, max: 100}], concurrency: {max: 1}}"))
	want := map[string]int64{"Key Tokens per Hour": 40, "Key ConcurrentRequests": 0}
	if diff := cmp.Diff(want, s.used(t, outputOf(1))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

func TestEachResourceAndModelHasItsOwnLimits(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers:
  plan:
    resources: [{resource: chat, limits: `+rates("Requests Hour 1")+`}, {resource: images, limits: `+rates("Requests Hour 2")+`}]
    models: [{model: gpt-5, limits: `+rates("Requests Day 5")+`}, {model: "gpt-*", limits: `+rates("Requests Day 6")+`}]
`)
	for _, tc := range []struct {
		resource, model string
		want            map[string]int64 // used afterwards
	}{
		{"chat", "gpt-5", map[string]int64{"KeyResource Requests per Hour": 1, "KeyModel Requests per Day": 1}},
		{"images", "gpt-5", map[string]int64{"KeyResource Requests per Hour": 1, "KeyModel Requests per Day": 2}},
		{"images", "gpt-4", map[string]int64{"KeyResource Requests per Hour": 2, "KeyModel Requests per Day": 1}},
		{"audio", "gpt-3", map[string]int64{"KeyModel Requests per Day": 2}}, // together with gpt-4, which no object names either
		{"audio", "other", map[string]int64{}},
	} {
		request := with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Resource, r.Model = tc.resource, tc.model })
		s.pass(t, request)
		if diff := cmp.Diff(tc.want, s.used(t, request)); diff != "" {
			t.Errorf("counters of %s for %s (-want +got):\n%s", tc.resource, tc.model, diff)
		}
	}
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
}

func TestALimitHoldsForEachRequestFromTheNextTableOn(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{}"))
	s.pass(t, chat("sk-alice"))
	s.apply(t, oneTier(rates("Requests Hour 1")))
	s.pass(t, chat("sk-alice"))
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
}

func TestTablesMayChangeWhileRequestsRun(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Requests Hour 100")))
	tables := []string{oneTier(rates("Requests Hour 100")), oneTier(rates("Requests Hour 100", "Tokens Hour 1000000"))}
	var passed [8]int64
	var all sync.WaitGroup
	for i := range passed {
		all.Go(func() {
			for range 50 {
				d, err := s.Reserve(t.Context(), chat("sk-alice"))
				if err != nil {
					t.Errorf("reserving: %v", err)
				}
				if d.Status == 0 {
					passed[i]++
				}
			}
		})
	}
	for i := range 50 {
		s.apply(t, tables[i%len(tables)])
	}
	all.Wait()
	sum := int64(0)
	for _, n := range passed {
		sum += n
	}
	if sum != 100 {
		t.Errorf("%d of 400 requests passed, want 100", sum)
	}
}

// A failing store is a real one whose calls can be made to fail.
type failing struct {
	counter.Store

	err error
}

type failingSet struct {
	counter.Set

	err error
}

func (f *failing) Open(limits []counter.Limit) counter.Set {
	return &failingSet{f.Store.Open(limits), f.err}
}

func (f *failing) Settle(context.Context, time.Time, counter.Settlement) error { return f.err }

func (f *failing) Renew(context.Context, time.Time, counter.LeaseID, []counter.Key, time.Time) error {
	return f.err
}

func (f *failingSet) Acquire(context.Context, time.Time, counter.LeaseID, time.Time, []int64, []counter.Count) (bool, error) {
	return false, f.err
}

var errBroken = errors.New("the store is broken")

func TestAFailingStoreIsAnErrorAndNoDenial(t *testing.T) {
	t.Parallel()
	good := serve(t, oneTier(twoAtOnce))
	lease := good.pass(t, chat("sk-alice")).Lease
	l := ratelimit.New(&failing{good.store, errBroken}, secret, ratelimit.WithClock(good.clock.now))
	l.SetTable(good.table)
	d, err := l.Reserve(t.Context(), chat("sk-alice"))
	if !errors.Is(err, errBroken) {
		t.Errorf("Reserve: %v, want the store's error", err)
	}
	if d != (ratelimit.Decision{}) {
		t.Errorf("decision %+v, want none", d)
	}
	if err := l.Renew(t.Context(), lease); !errors.Is(err, errBroken) {
		t.Errorf("Renew: %v, want the store's error", err)
	}
	if err := l.Settle(t.Context(), &descriptor.Settle{Lease: lease}); !errors.Is(err, errBroken) {
		t.Errorf("Settle: %v, want the store's error", err)
	}
}

func TestACallerThatIsGoneIsNotCharged(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{rates: [{metric: Requests, per: Hour, max: 5}], concurrency: {max: 1}}"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := s.Reserve(ctx, chat("sk-alice")); !errors.Is(err, context.Canceled) || d.Lease != "" {
		t.Errorf("got %+v and error %v, want that the call is cancelled", d, err)
	}
	want := map[string]int64{"Key Requests per Hour": 0, "Key ConcurrentRequests": 0}
	if diff := cmp.Diff(want, s.used(t, chat("sk-alice"))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}
