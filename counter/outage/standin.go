package outage

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

// maxLate is how many settlements of leases from before an outage are kept until it ends.
const maxLate = 1 << 16

// atOnce is how many calls make up for an outage at the same time.
const atOnce = 64

// A standIn counts in this process for the time of one outage. It is safe for concurrent use.
type standIn struct {
	local    *memory.Store
	since    time.Time
	replicas int64
	lost     *atomic.Uint64

	using sync.RWMutex // held for reading while something is counted
	ended bool

	mu       sync.Mutex
	counters map[counter.Key]*begun
	leases   map[counter.LeaseID]*lease
	late     []counter.Settlement

	claimed time.Time // when the store was first told what may be taken until the end; Run's alone
}

// begun is how a counter began: not empty, but with what this replica may not admit.
type begun struct {
	window counter.Window
	seen   int64     // what was used by all
	before int64     // what the local counter began with
	most   int64     // what it may reach, where there is a limit in the outage
	told   int64     // of what was counted here, what the store knows
	gone   time.Time // when all that counts no more
}

// turn begins anew when what was counted before is gone.
func (b *begun) turn(now time.Time) {
	if !now.Before(b.gone) {
		b.seen, b.before, b.told, b.gone = 0, 0, 0, goneAfter(b.window, now)
	}
}

// A lease was given here, or somebody whose it is gave a sign of life.
type lease struct {
	given  bool
	slots  []counter.Key
	expiry time.Time // of the slots
	told   bool      // the store knows of the slots, or is about to
}

func newStandIn(now time.Time, replicas int, lost *atomic.Uint64) *standIn {
	return &standIn{
		local: memory.New(), since: now, replicas: int64(replicas), lost: lost,
		counters: map[counter.Key]*begun{}, leases: map[counter.LeaseID]*lease{},
	}
}

// end lets nobody count here any more, once all who do have done.
func (in *standIn) end() {
	in.using.Lock()
	defer in.using.Unlock()
	in.ended = true
}

// use calls f unless the outage has ended.
func (in *standIn) use(f func() error) (done bool, err error) {
	in.using.RLock()
	defer in.using.RUnlock()
	if in.ended {
		return false, nil
	}
	return true, f()
}

func (in *standIn) acquire(
	ctx context.Context, s *set, now time.Time, id counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (ok, done bool, err error) {
	done, err = in.use(func() error {
		l, err := s.localIn(ctx, in, now)
		if err != nil {
			return err
		}
		if ok, err = l.set.Acquire(ctx, now, id, expiry, hits, counts); err != nil {
			return err //nolint:wrapcheck // Memory does not fail.
		}
		if ok {
			in.note(id, true, heldBy(l.limits, hits), expiry)
		}
		l.translate(s.limits, counts)
		return nil
	})
	return ok, done, err
}

// heldBy lists the counters of which a slot is taken.
func heldBy(limits []counter.Limit, hits []int64) (keys []counter.Key) {
	for i, l := range limits {
		if l.Window == counter.InUse && hits[i] > 0 {
			keys = append(keys, l.Key)
		}
	}
	return keys
}

func (in *standIn) note(id counter.LeaseID, given bool, slots []counter.Key, expiry time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if l := in.leases[id]; l != nil {
		given = given || l.given
	}
	in.leases[id] = &lease{given: given, slots: slots, expiry: expiry}
}

// begin has a counter begin so that most, the limit's part of this replica, leaves no more than its part of what was seen to
// remain. A counter that has begun, by what somebody else saw, goes by the most that was seen.
func (in *standIn) begin(ctx context.Context, now time.Time, l counter.Limit, most, used int64) error {
	if l.Window == counter.InUse {
		return nil // Streams that hold slots tell of themselves at every heartbeat.
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	b := in.counters[l.Key]
	if b == nil {
		b = &begun{window: l.Window, gone: goneAfter(l.Window, now)}
		in.counters[l.Key] = b
	}
	if b.turn(now); most == math.MaxInt64 {
		return nil
	}
	if b.most = max(b.most, most); used == 0 {
		return nil
	}
	before := most - part(l.Max-used, in.replicas)
	if before <= b.before {
		return nil
	}
	more := before - b.before
	b.seen, b.before = used, before
	return in.local.Settle(ctx, now, charging(now, []counter.Charge{{Key: l.Key, Window: l.Window, Used: more}})) //nolint:wrapcheck // Memory does not fail.
}

// goneAfter is when what is counted now counts no more.
func goneAfter(w counter.Window, now time.Time) time.Time {
	if w.Slides() {
		return w.Gone(w.Sub(now))
	}
	_, end := w.Bounds(now)
	return end
}

// charging is a settlement of nobody's lease, which adds to counters.
func charging(now time.Time, charges []counter.Charge) counter.Settlement {
	s := counter.Settlement{Taken: now, Charges: charges}
	_, _ = rand.Read(s.Lease[:])
	return s
}

// settle takes a settlement of a lease that was given here. That of another, from before the outage or from another replica, is
// kept for the store: in full unless the store was asked already, which may have done it; then only the freeing of slots, which can
// be done twice. So is the freeing of those that the store was told of.
func (in *standIn) settle(ctx context.Context, now time.Time, s counter.Settlement, asked bool) (bool, error) {
	return in.use(func() error {
		in.mu.Lock()
		l := in.leases[s.Lease]
		given := l != nil && l.given
		delete(in.leases, s.Lease)
		switch {
		case !given:
			in.keep(s, asked)
		case l.told:
			in.keep(s, true)
		}
		in.mu.Unlock()
		if !given {
			s.Charges = slotsOf(s.Charges) // renewed here, perhaps
		}
		return in.local.Settle(ctx, now, s) //nolint:wrapcheck // Memory does not fail.
	})
}

func (in *standIn) keep(s counter.Settlement, asked bool) {
	if asked {
		s.Charges = slotsOf(s.Charges)
	}
	switch {
	case len(s.Charges) == 0:
	case len(in.late) == maxLate:
		in.lost.Add(1)
	default:
		s.Charges = slices.Clone(s.Charges)
		in.late = append(in.late, s)
	}
}

func slotsOf(charges []counter.Charge) (slots []counter.Charge) {
	for _, c := range charges {
		if c.Window == counter.InUse {
			slots = append(slots, c)
		}
	}
	return slots
}

func (in *standIn) renew(ctx context.Context, now time.Time, id counter.LeaseID, keys []counter.Key, expiry time.Time) (bool, error) {
	return in.use(func() error {
		in.note(id, false, slices.Clone(keys), expiry)
		return in.local.Renew(ctx, now, id, keys, expiry) //nolint:wrapcheck // Memory does not fail.
	})
}

func (in *standIn) peek(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) (bool, error) {
	return in.use(func() error {
		if err := in.local.Peek(ctx, now, limits, counts); err != nil {
			return err //nolint:wrapcheck // Memory does not fail.
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		for i, l := range limits {
			if b := in.counters[l.Key]; b != nil && now.Before(b.gone) {
				counts[i].Used += b.seen - b.before
			}
		}
		return nil
	})
}

// claim charges the store all that may be taken here, so that nobody else takes it, and tells it who holds slots.
func (in *standIn) claim(ctx context.Context, now time.Time, store counter.Store) error {
	if err := in.charge(ctx, now, store, true); err != nil {
		return fmt.Errorf("claiming what may be taken in the outage: %w", err)
	}
	return in.tellHeld(ctx, now, store, false)
}

// tell makes up for the outage, as far as that was not done before: the store is told what was taken, what ended meanwhile, and who
// holds slots.
func (in *standIn) tell(ctx context.Context, now time.Time, store counter.Store) error {
	if err := in.charge(ctx, now, store, false); err != nil {
		return fmt.Errorf("charging what was taken during the outage: %w", err)
	}
	if err := in.settleLate(ctx, now, store); err != nil {
		return fmt.Errorf("settling what ended during the outage: %w", err)
	}
	return in.tellHeld(ctx, now, store, true)
}

// settleLate takes settlements out before they are told: none must be told twice.
func (in *standIn) settleLate(ctx context.Context, now time.Time, store counter.Store) error {
	in.mu.Lock()
	late := in.late
	in.late = nil
	in.mu.Unlock()
	return each(late, func(s counter.Settlement) error {
		err := settle(ctx, now, store, s)
		if err != nil {
			in.lost.Add(1)
		}
		return err
	})
}

// each calls do for all, for some of them at once.
func each[T any](all []T, do func(T) error) error {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, one := range all {
		group.Go(func() error { return do(one) })
	}
	return group.Wait() //nolint:wrapcheck // The caller says what for.
}

func settle(ctx context.Context, now time.Time, store counter.Store, s counter.Settlement) error {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	return store.Settle(ctx, now, s) //nolint:wrapcheck // The caller says what for.
}

// charge corrects what the store knows of counters: to what was taken here, or to all that may be.
func (in *standIn) charge(ctx context.Context, now time.Time, store counter.Store, all bool) error {
	in.mu.Lock()
	keys := slices.Collect(maps.Keys(in.counters))
	in.mu.Unlock()
	return each(slices.Collect(slices.Chunk(keys, counter.MaxLimits)), func(few []counter.Key) error {
		more, less, err := in.untold(ctx, now, few, all)
		if err != nil {
			return err
		}
		if err := in.correct(ctx, now, store, charging(now, more)); err != nil {
			return err
		}
		// It was claimed at another time, which for a window that slides is another place.
		return in.correct(ctx, now, store, charging(in.claimed, less))
	})
}

// correct tells the store. A call that fails may have been carried out. One that charges is made again all the same, one that returns
// is not: rather too much is charged than too little.
func (in *standIn) correct(ctx context.Context, now time.Time, store counter.Store, s counter.Settlement) error {
	if len(s.Charges) == 0 {
		return nil
	}
	note := func(refund bool) {
		in.mu.Lock()
		defer in.mu.Unlock()
		for _, c := range s.Charges {
			if n := c.Excess(); refund == (n < 0) {
				in.counters[c.Key].told += n
			}
		}
	}
	note(true)
	if err := settle(ctx, now, store, s); err != nil {
		return err
	}
	note(false)
	return nil
}

// untold is by how much the store knows too little of some counters, and too much of others.
func (in *standIn) untold(ctx context.Context, now time.Time, keys []counter.Key, all bool) (more, less []counter.Charge, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	limits := make([]counter.Limit, len(keys))
	for i, key := range keys {
		limits[i] = counter.Limit{Key: key, Window: in.counters[key].window}
	}
	counts := make([]counter.Count, len(keys))
	if err := in.local.Peek(ctx, now, limits, counts); err != nil {
		return nil, nil, err //nolint:wrapcheck // Memory does not fail.
	}
	for i, key := range keys {
		b := in.counters[key]
		b.turn(now)
		taken := counts[i].Used
		if all {
			taken = max(taken, b.most)
		}
		switch n := max(taken-b.before, 0) - b.told; {
		case n > 0:
			more = append(more, counter.Charge{Key: key, Window: b.window, Used: n})
		case n < 0:
			less = append(less, counter.Charge{Key: key, Window: b.window, Charged: -n})
		}
	}
	return more, less, nil
}

// tellHeld tells who holds slots. Of those whom the store knows it tells again if it is to: the store may have taken the slots of a call
// that it answered too late, and given them back, by the same lease.
func (in *standIn) tellHeld(ctx context.Context, now time.Time, store counter.Store, again bool) error {
	in.mu.Lock()
	held := map[counter.LeaseID]*lease{}
	for id, l := range in.leases {
		if len(l.slots) > 0 && (again || !l.told) && now.Before(l.expiry) {
			l.told, held[id] = true, l
		}
	}
	in.mu.Unlock()
	return each(slices.Collect(maps.Keys(held)), func(id counter.LeaseID) error {
		l := held[id]
		ctx, cancel := context.WithTimeout(ctx, settling)
		defer cancel()
		if err := store.Renew(ctx, now, id, l.slots, l.expiry); err != nil {
			in.mu.Lock()
			defer in.mu.Unlock()
			l.told = false
			return fmt.Errorf("telling who holds slots: %w", err)
		}
		return nil
	})
}
