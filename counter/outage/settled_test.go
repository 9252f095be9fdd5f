package outage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A wordless store does what it is asked for before it is out, if it is told to.
type wordless struct {
	*troubled

	does atomic.Bool
}

type wordlessSet struct {
	counter.Set

	of *wordless
}

func (s *wordless) Open(limits []counter.Limit) counter.Set {
	return &wordlessSet{s.Store.Open(limits), s}
}

// first makes a call before the store is out, or else not at all.
func (s *wordless) first(ctx context.Context, call func() error) error {
	does := s.does.Load()
	if does {
		if err := call(); err != nil {
			return err
		}
	}
	if err := s.Probe(ctx); err != nil || does {
		return err
	}
	return call()
}

// Acquire implements counter.Set.
func (s *wordlessSet) Acquire(
	ctx context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (ok bool, err error) {
	err = s.of.first(ctx, func() error {
		ok, err = s.Set.Acquire(ctx, now, lease, expiry, hits, counts)
		return err
	})
	return ok && err == nil, err
}

// Settle implements counter.Store. A store that answers says whether it has done it.
func (s *wordless) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	err := s.first(ctx, func() error { return s.Store.Settle(ctx, now, settlement) })
	if errors.Is(err, errFails) && !s.does.Load() {
		return fmt.Errorf("%w: %w", counter.ErrNotDone, err)
	}
	return err
}

// Renew implements counter.Store.
func (s *wordless) Renew(ctx context.Context, now time.Time, lease counter.LeaseID, keys []counter.Key, expiry time.Time) error {
	return s.first(ctx, func() error { return s.Store.Renew(ctx, now, lease, keys, expiry) })
}

// TestWhatIsSettledIsCountedWhateverBecomesOfTheStore, and at whichever replica, and no slot is held: exactly where the store does what it
// says, and else rather too much than too little.
func TestWhatIsSettledIsCountedWhateverBecomesOfTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(struct{ rapid.TB }{t}, func(rt *rapid.T) { // A bubble has no deadline.
			shared := &wordless{troubled: sound()}
			replicas := make([]*replica, rapid.IntRange(1, 3).Draw(rt, "replicas"))
			for i := range replicas {
				replicas[i] = start(t, shared, len(replicas))
				rt.Cleanup(replicas[i].stop)
			}
			(&troubles{
				T: rt, honest: rapid.Bool().Draw(rt, "the store does what it says"), began: now(), shared: shared, replicas: replicas,
				limits: []counter.Limit{limit(counter.Month, 1<<40), limit(counter.SlidingHour, 1<<40), limit(counter.InUse, 1<<20)},
			}).run()
		})
	})
}

// troubles are a store and its replicas, and what was admitted and used.
type troubles struct {
	*rapid.T

	honest   bool
	began    time.Time
	shared   *wordless
	replicas []*replica
	limits   []counter.Limit
	open     []open
	used     int64
}

// An open request was admitted, and has not been settled.
type open struct {
	lease counter.LeaseID
	taken time.Time
}

const (
	charged   = 100 // by a request at first
	heartbeat = 10 * time.Second
)

func (x *troubles) run() {
	x.before(1 << 20)
	x.Repeat(map[string]func(*rapid.T){
		"take":    func(*rapid.T) { x.take() },
		"settle":  func(*rapid.T) { x.settle() },
		"renew":   func(*rapid.T) { x.renew() },
		"trouble": func(*rapid.T) { x.trouble() },
		"pass":    func(*rapid.T) { x.pass() },
	})
	for before := rapid.IntRange(0, len(x.open)).Draw(x.T, "before it is back"); before > 0; before-- {
		x.settle()
	}
	x.shared.is(none)
	for len(x.open) > 0 {
		x.settle()
	}
	for _, r := range x.replicas {
		r.back()
	}
	pass(3 * time.Second) // in which all is made up for
	counts := make([]counter.Count, len(x.limits))
	if err := x.shared.Store.Peek(x.Context(), now(), x.limits, counts); err != nil {
		x.Fatal(err)
	}
	if month, hour := counts[0].Used, counts[1].Used; month < x.used || hour < x.used || x.honest && month > x.used {
		x.Errorf("%d are used, and the store has counted %d and %d", x.used, month, hour)
	}
	if n := counts[2].Used; n > 0 {
		x.Errorf("%d slots are held by requests that have ended", n)
	}
}

// before has others use so much that no refund finds too little, of which a store makes nothing.
func (x *troubles) before(n int64) {
	s := counter.Settlement{Taken: now()}
	for _, l := range x.limits[:2] {
		s.Charges = append(s.Charges, charge(l, 0, n))
	}
	if err := x.shared.Store.Settle(x.Context(), now(), s); err != nil {
		x.Fatal(err)
	}
	x.used = n
}

func (x *troubles) replica() counter.Store {
	return x.replicas[rapid.IntRange(0, len(x.replicas)-1).Draw(x.T, "at")].LocalShare()
}

func (x *troubles) take() {
	lease, at := newLease(), now()
	ok, err := x.replica().Open(x.limits).Acquire(x.Context(), at, lease, at.Add(35*time.Second), []int64{charged, charged, 1}, make([]counter.Count, 3))
	if err != nil {
		x.Fatal(err)
	}
	if ok { // Else all is claimed by a replica that finds the store again.
		x.open = append(x.open, open{lease, at})
	}
}

// one is an open request.
func (x *troubles) one() (i int) {
	if len(x.open) == 0 {
		x.Skip("there is none")
	}
	return rapid.IntRange(0, len(x.open)-1).Draw(x.T, "request")
}

func (x *troubles) settle() {
	i := x.one()
	o, n := x.open[i], rapid.SampledFrom([]int64{0, 30, charged, 170}).Draw(x.T, "used")
	x.open = slices.Delete(x.open, i, i+1)
	x.used += n
	s := counter.Settlement{Lease: o.lease, Taken: o.taken}
	for _, l := range x.limits {
		s.Charges = append(s.Charges, charge(l, charged, n))
	}
	if err := x.replica().Settle(x.Context(), now(), s); err != nil {
		x.Fatal(err)
	}
}

// renew has a request give a sign of life, as those do that last.
func (x *troubles) renew() {
	o := x.open[x.one()]
	if now().Sub(o.taken) < heartbeat {
		x.Skip("it is too young")
	}
	if err := x.replica().Renew(x.Context(), now(), o.lease, []counter.Key{x.limits[2].Key}, now().Add(35*time.Second)); err != nil {
		x.Fatal(err)
	}
}

// pass lets time pass, but no more than stores remember who has been settled: see [counter.Remember].
func (x *troubles) pass() {
	d := rapid.SampledFrom([]time.Duration{time.Millisecond, 50 * time.Millisecond, 150 * time.Millisecond, time.Second, heartbeat}).Draw(x.T, "for")
	if now().Add(d).Sub(x.began) > 3*heartbeat/2 {
		x.Skip("it is late")
	}
	pass(d)
}

func (x *troubles) trouble() {
	if x.honest {
		x.shared.is(rapid.SampledFrom([]trouble{none, failing}).Draw(x.T, "trouble"))
		return
	}
	x.shared.does.Store(rapid.Bool().Draw(x.T, "does what it is asked for"))
	x.shared.is(rapid.SampledFrom([]trouble{none, silent, failing}).Draw(x.T, "trouble"))
}
