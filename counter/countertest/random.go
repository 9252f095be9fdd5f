package countertest

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/counter"
)

// agreesWithTheModel calls the store and the model in the same random way, and wants the same of both after each call.
// When it fails, it prints the seed and the shortest sequence that it found.
func agreesWithTheModel(f *fixture) {
	rapid.Check(f.T, func(t *rapid.T) {
		p := newPair(t, f)
		t.Repeat(map[string]func(*rapid.T){
			"":        p.compare,
			"open":    p.open,
			"wait":    p.wait,
			"acquire": p.acquire,
			"settle":  p.settle,
			"renew":   p.renew,
		})
	})
}

// A pair is a store and the model of it.
type pair struct {
	ctx      context.Context
	store    counter.Store
	model    *model
	now      time.Time
	counters []counter.Limit
	sets     []setPair
	leases   []counter.Settlement // those admitted, whether settled since or not
}

type setPair struct {
	limits       []counter.Limit
	store, model counter.Set
}

func newPair(t *rapid.T, f *fixture) *pair {
	p := &pair{ctx: f.Context(), store: f.open(f.T), model: newModel(), now: noon}
	for w := counter.Second; w.Valid(); w++ {
		p.counters = append(p.counters, f.limit(w, 0))
	}
	for range 4 {
		p.counters = append(p.counters, f.limit(counter.InUse, 0))
	}
	p.open(t)
	return p
}

// compare peeks at everything.
func (p *pair) compare(t *rapid.T) {
	got, want := make([]counter.Count, len(p.counters)), make([]counter.Count, len(p.counters))
	now := p.moment(t)
	check(t, "Peek", p.store.Peek(p.ctx, now, p.counters, got))
	check(t, "Peek of the model", p.model.Peek(p.ctx, now, p.counters, want))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("counters at %v (-want +got):\n%s", now, diff)
	}
}

// wait lets time pass.
func (p *pair) wait(t *rapid.T) {
	p.now = p.now.Add(rapid.SampledFrom([]time.Duration{
		time.Millisecond, 60 * time.Millisecond, 400 * time.Millisecond, time.Second, 7 * time.Second, 20 * time.Second,
		31 * time.Second, time.Minute, 5 * time.Minute, 20 * time.Minute, time.Hour, 9 * time.Hour, 24 * time.Hour, 11 * 24 * time.Hour, 40 * 24 * time.Hour,
	}).Draw(t, "wait"))
}

// moment is when a call reads its clock: now, or a little ago.
func (p *pair) moment(t *rapid.T) time.Time {
	return p.now.Add(-rapid.SampledFrom([]time.Duration{0, 0, 0, 1, time.Millisecond, time.Second, 5 * time.Second}).Draw(t, "ago"))
}

// open adds a set of some of the counters. Earlier sets stay.
func (p *pair) open(t *rapid.T) {
	places := rapid.Permutation(p.counters).Draw(t, "counters")
	limits := places[:rapid.IntRange(1, len(places)).Draw(t, "size")]
	for i := range limits {
		limits[i].Max = rapid.OneOf(rapid.Int64Range(0, 30), rapid.Just[int64](math.MaxInt64)).Draw(t, "max")
	}
	p.sets = append(p.sets, setPair{limits, p.store.Open(limits), p.model.Open(limits)})
}

func (p *pair) acquire(t *rapid.T) {
	set := rapid.SampledFrom(p.sets).Draw(t, "set")
	now, lease, hits := p.moment(t), newLease(), make([]int64, len(set.limits))
	expiry := now.Add(rapid.SampledFrom([]time.Duration{time.Second, 15 * time.Second, 35 * time.Second}).Draw(t, "expiry"))
	for i, l := range set.limits {
		hits[i] = drawHits(t, l.Window)
	}
	got, want := make([]counter.Count, len(hits)), make([]counter.Count, len(hits))
	ok, err := set.store.Acquire(p.ctx, now, lease, expiry, hits, got)
	check(t, "Acquire", err)
	wantOK, err := set.model.Acquire(p.ctx, now, lease, expiry, hits, want)
	check(t, "Acquire of the model", err)
	if diff := cmp.Diff(want, got); ok != wantOK || diff != "" {
		t.Fatalf("Acquire is %v, want %v, counts (-want +got):\n%s", ok, wantOK, diff)
	}
	if ok {
		p.leases = append(p.leases, settlement(lease, now, set.limits, hits))
	}
}

func drawHits(t *rapid.T, w counter.Window) int64 {
	if w == counter.InUse {
		return rapid.Int64Range(0, 1).Draw(t, "slot")
	}
	return rapid.Int64Range(-1, 5).Draw(t, "hits")
}

// settlement says that what was charged was used.
func settlement(lease counter.LeaseID, taken time.Time, limits []counter.Limit, hits []int64) counter.Settlement {
	s := counter.Settlement{Lease: lease, Taken: taken}
	for i, l := range limits {
		if hits[i] > 0 {
			s.Charges = append(s.Charges, counter.Charge{Key: l.Key, Window: l.Window, Charged: hits[i], Used: hits[i]})
		}
	}
	return s
}

// settle settles a lease, which may have been settled before, or one that was never admitted.
func (p *pair) settle(t *rapid.T) {
	all := slices.Concat(p.leases, []counter.Settlement{p.foreign(t)})
	s := all[rapid.IntRange(0, len(all)-1).Draw(t, "lease")]
	for i := range s.Charges {
		s.Charges[i].Used = rapid.OneOf(rapid.Int64Range(-1, 40), rapid.Just[int64](math.MaxInt64)).Draw(t, "used")
	}
	now := p.moment(t)
	check(t, "Settle", p.store.Settle(p.ctx, now, s))
	check(t, "Settle of the model", p.model.Settle(p.ctx, now, s))
}

// foreign is the settlement of a lease that another store has admitted.
func (p *pair) foreign(t *rapid.T) counter.Settlement {
	hits := make([]int64, len(p.counters))
	for i := range hits {
		hits[i] = rapid.Int64Range(0, 1).Draw(t, "foreign")
	}
	return settlement(newLease(), p.moment(t), p.counters, hits)
}

func (p *pair) renew(t *rapid.T) {
	lease := newLease()
	if len(p.leases) > 0 && rapid.IntRange(0, 5).Draw(t, "known") > 0 {
		lease = rapid.SampledFrom(p.leases).Draw(t, "lease").Lease
	}
	var slots []counter.Key
	for _, l := range p.counters {
		if l.Window == counter.InUse && rapid.Bool().Draw(t, "slot") {
			slots = append(slots, l.Key)
		}
	}
	now := p.moment(t)
	expiry := now.Add(rapid.SampledFrom([]time.Duration{0, 5 * time.Second, 35 * time.Second}).Draw(t, "expiry"))
	check(t, "Renew", p.store.Renew(p.ctx, now, lease, slots, expiry))
	check(t, "Renew of the model", p.model.Renew(p.ctx, now, lease, slots, expiry))
}

func check(t *rapid.T, call string, err error) {
	if err != nil {
		t.Fatalf("%s: %v", call, err)
	}
}
