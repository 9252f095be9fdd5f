package outage

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

// maxLate is how many settlements of leases from before an outage are kept until it ends.
const maxLate = 1 << 16

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
	held     map[counter.LeaseID]*slots
	late     []counter.Settlement
}

// begun is how a counter began: not empty, but with what this replica may not admit.
type begun struct {
	window counter.Window
	seen   int64     // what was used by all
	before int64     // what the local counter began with
	gone   time.Time // when that counts no more
	told   int64     // of what was counted here, what the store knows
}

// slots are those that a lease holds.
type slots struct {
	keys   []counter.Key
	expiry time.Time
}

func newStandIn(now time.Time, replicas int, lost *atomic.Uint64) *standIn {
	return &standIn{
		local: memory.New(), since: now, replicas: int64(replicas), lost: lost,
		counters: map[counter.Key]*begun{}, held: map[counter.LeaseID]*slots{},
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
	ctx context.Context, s *set, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (ok, done bool, err error) {
	done, err = in.use(func() error {
		l, err := s.localIn(ctx, in, now)
		if err != nil {
			return err
		}
		if ok, err = l.set.Acquire(ctx, now, lease, expiry, hits, counts); err != nil {
			return err //nolint:wrapcheck // Memory does not fail.
		}
		if ok {
			in.hold(lease, heldBy(l.limits, hits), expiry)
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

func (in *standIn) hold(lease counter.LeaseID, keys []counter.Key, expiry time.Time) {
	if len(keys) == 0 {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.held[lease] = &slots{keys, expiry}
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
	if used == 0 || !now.Before(b.gone) {
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

// settle takes a settlement of a lease that was given here. That of another is kept for the store: in full unless the store was
// asked already, which may have done it; then only the freeing of slots, which can be done twice.
func (in *standIn) settle(ctx context.Context, now time.Time, s counter.Settlement, asked bool) (bool, error) {
	return in.use(func() error {
		in.mu.Lock()
		delete(in.held, s.Lease)
		if s.Taken.Before(in.since) {
			in.keep(s, asked)
		}
		in.mu.Unlock()
		if s.Taken.Before(in.since) {
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

func (in *standIn) renew(ctx context.Context, now time.Time, lease counter.LeaseID, keys []counter.Key, expiry time.Time) (bool, error) {
	return in.use(func() error {
		in.hold(lease, slices.Clone(keys), expiry)
		return in.local.Renew(ctx, now, lease, keys, expiry) //nolint:wrapcheck // Memory does not fail.
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

// tell makes up for the outage, as far as that was not done before: the store is told what ended meanwhile, what was taken, and
// who holds slots.
func (in *standIn) tell(ctx context.Context, now time.Time, store counter.Store) error {
	for {
		s, ok := in.nextLate()
		if !ok {
			break
		}
		if err := settle(ctx, now, store, s); err != nil {
			in.lost.Add(1)
			return fmt.Errorf("settling what ended during the outage: %w", err)
		}
	}
	if err := in.tellTaken(ctx, now, store); err != nil {
		return fmt.Errorf("charging what was taken during the outage: %w", err)
	}
	return in.tellHeld(ctx, now, store)
}

// nextLate takes one out before it is told: it must not be told twice.
func (in *standIn) nextLate() (s counter.Settlement, ok bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.late) == 0 {
		return s, false
	}
	s, in.late = in.late[0], in.late[1:]
	return s, true
}

func settle(ctx context.Context, now time.Time, store counter.Store, s counter.Settlement) error {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	return store.Settle(ctx, now, s) //nolint:wrapcheck // The caller says what for.
}

func (in *standIn) tellTaken(ctx context.Context, now time.Time, store counter.Store) error {
	in.mu.Lock()
	keys := slices.Collect(maps.Keys(in.counters))
	in.mu.Unlock()
	for batch := range slices.Chunk(keys, counter.MaxLimits) {
		charges, err := in.untold(ctx, now, batch)
		if err != nil {
			return err
		}
		if len(charges) == 0 {
			continue
		}
		// A call that fails may have been carried out, and is made again all the same: rather too much is charged than too little.
		if err := settle(ctx, now, store, charging(now, charges)); err != nil {
			return err
		}
		in.mu.Lock()
		for _, c := range charges {
			in.counters[c.Key].told += c.Used
		}
		in.mu.Unlock()
	}
	return nil
}

// untold is what was taken of some counters and the store does not know.
func (in *standIn) untold(ctx context.Context, now time.Time, keys []counter.Key) (charges []counter.Charge, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	limits := make([]counter.Limit, len(keys))
	for i, key := range keys {
		limits[i] = counter.Limit{Key: key, Window: in.counters[key].window}
	}
	counts := make([]counter.Count, len(keys))
	if err := in.local.Peek(ctx, now, limits, counts); err != nil {
		return nil, err //nolint:wrapcheck // Memory does not fail.
	}
	for i, key := range keys {
		b := in.counters[key]
		more := counts[i].Used - b.told
		if now.Before(b.gone) {
			more -= b.before
		}
		if more > 0 {
			charges = append(charges, counter.Charge{Key: key, Window: b.window, Used: more})
		}
	}
	return charges, nil
}

func (in *standIn) tellHeld(ctx context.Context, now time.Time, store counter.Store) error {
	in.mu.Lock()
	held := maps.Clone(in.held)
	in.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	for lease, s := range held {
		if !now.Before(s.expiry) {
			continue
		}
		if err := store.Renew(ctx, now, lease, s.keys, s.expiry); err != nil {
			return fmt.Errorf("telling who holds slots: %w", err)
		}
	}
	return nil
}
