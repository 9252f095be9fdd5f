package outage

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

const (
	// maxLate is how many settlements of leases from before an outage are kept until it ends, and how many leases are.
	maxLate = 1 << 16
	// maxSets bounds the sets that are kept ready: those of former tables are among them.
	maxSets = 1 << 18
	// heartbeat is how long a request lasts at least that gives a sign of life.
	heartbeat = counter.Remember / 2
)

// A standIn counts in this process for the time of one outage. It is safe for concurrent use.
type standIn struct {
	local    *memory.Store
	sets     *xsync.Map[*set, *localSet]
	since    time.Time
	replicas int64
	lost     *atomic.Uint64

	using sync.RWMutex // held for reading while something is counted
	ended bool

	mu       sync.Mutex
	counters map[counter.Key]*begun
	leases   map[counter.LeaseID]*lease
	late     []counter.Settlement
}

// begun is how a counter began: not empty, but with what this replica may not admit. What this replica has admitted is what the local
// counter holds less before, and so much is charged in the end; what all have used is that and seen.
type begun struct {
	window  counter.Window
	seen    int64     // what was used by all
	before  int64     // what the local counter began with
	most    int64     // what it may reach, where there is a limit in the outage
	told    int64     // of what was counted here, what the store knows
	claimed time.Time // when it was told first; for a window that slides that is where
	gone    time.Time // when all that counts no more
	unread  error     // why the store cannot be told; nil: it can
}

// turn begins anew when what was counted before is gone.
func (b *begun) turn(now time.Time) {
	if !now.Before(b.gone) {
		b.seen, b.before, b.told, b.gone = 0, 0, 0, goneAfter(b.window, now)
	}
}

// past reports whether the counter stands in a later window than that of a time: somebody else has looked at the clock later.
func (b *begun) past(at time.Time) bool { return b.gone.After(goneAfter(b.window, at)) }

// A lease was given here, or somebody whose it is gave a sign of life.
type lease struct {
	given  bool
	slots  []counter.Key
	expiry time.Time // of the slots
	told   bool      // the store knows of the slots until they expire, or is about to
	known  bool      // the store may know of the slots: it was told of them, or asked for them in vain
}

func newStandIn(now time.Time, replicas int, lost *atomic.Uint64) *standIn {
	return &standIn{
		local: memory.New(), sets: xsync.NewMap[*set, *localSet](), since: now, replicas: int64(replicas), lost: lost,
		counters: map[counter.Key]*begun{}, leases: map[counter.LeaseID]*lease{},
	}
}

// end lets nobody count here any more, once all who do have done.
func (in *standIn) end() {
	in.using.Lock()
	defer in.using.Unlock()
	in.ended = true
	in.sets.Clear()
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
	ctx context.Context, s *set, now time.Time, id counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count, asked bool,
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
			in.note(id, lease{given: true, slots: heldBy(l.limits, hits), expiry: expiry, known: asked})
		}
		l.translate(s.limits, hits, ok, counts)
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

// note keeps a lease, unless there are too many. The settlement of one that is not kept is kept for the store.
func (in *standIn) note(id counter.LeaseID, l lease) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch before := in.leases[id]; {
	case before != nil:
		l.given, l.known = l.given || before.given, l.known || before.known
	case len(in.leases) >= maxLate:
		return
	}
	in.leases[id] = &l
}

// gave reports whether a lease was given here.
func (in *standIn) gave(id counter.LeaseID) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	l := in.leases[id]
	return l != nil && l.given
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
	if b.turn(now); most == unlimited {
		return nil
	}
	if b.most = max(b.most, most); used == 0 || !l.Window.Slides() && b.past(now) {
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

// limits lists the counters that still count, and of which the store can be told.
func (in *standIn) limits(now time.Time) (limits []counter.Limit) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for key, b := range in.counters {
		if b.unread == nil && now.Before(b.gone) {
			limits = append(limits, counter.Limit{Key: key, Window: b.window})
		}
	}
	return limits
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
// kept for the store: in full unless the store was asked already, which may have done it; then what can be made again. So is the freeing of
// slots that the store may know, or is going to: signs of life of a request that lasts may come to another replica.
func (in *standIn) settle(ctx context.Context, now time.Time, s counter.Settlement, asked bool) (bool, error) {
	return in.use(func() error {
		in.mu.Lock()
		l := in.leases[s.Lease]
		given := l != nil && l.given
		delete(in.leases, s.Lease)
		switch {
		case !given:
			in.keep(s, asked)
		case l.known, in.replicas > 1 && now.Sub(s.Taken) >= heartbeat:
			in.keep(slotsOf(s), false)
		}
		in.mu.Unlock()
		if !given {
			s = slotsOf(s) // renewed here, perhaps
		}
		return in.local.Settle(ctx, now, s) //nolint:wrapcheck // Memory does not fail.
	})
}

func (in *standIn) keep(s counter.Settlement, asked bool) {
	if asked {
		s.Charges = again(s.Charges)
	}
	switch {
	case len(s.Charges) == 0:
	case len(in.late) >= maxLate:
		in.lost.Add(1)
	default:
		s.Charges = slices.Clone(s.Charges)
		in.late = append(in.late, s)
	}
}

// slotsOf is the part of a settlement that frees slots.
func slotsOf(s counter.Settlement) counter.Settlement {
	s.Charges = only(s.Charges, func(c counter.Charge) bool { return c.Window == counter.InUse })
	return s
}

// again is what can be made again of charges that may have been made: a slot is freed once however often that is said, and rather too much
// is charged than too little.
func again(charges []counter.Charge) []counter.Charge {
	return only(charges, func(c counter.Charge) bool { return c.Window == counter.InUse || c.Excess() > 0 })
}

func only(charges []counter.Charge, is func(counter.Charge) bool) (some []counter.Charge) {
	for _, c := range charges {
		if is(c) {
			some = append(some, c)
		}
	}
	return some
}

func (in *standIn) renew(ctx context.Context, now time.Time, id counter.LeaseID, keys []counter.Key, expiry time.Time) (bool, error) {
	return in.use(func() error {
		in.note(id, lease{slots: slices.Clone(keys), expiry: expiry})
		return in.local.Renew(ctx, now, id, keys, expiry) //nolint:wrapcheck // Memory does not fail.
	})
}

// peek tells what was counted here, or else what was seen of the store.
func (in *standIn) peek(ctx context.Context, now time.Time, s *Store, limits []counter.Limit, counts []counter.Count) (bool, error) {
	return in.use(func() error {
		if err := in.local.Peek(ctx, now, limits, counts); err != nil {
			return err //nolint:wrapcheck // Memory does not fail.
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		for i, l := range limits {
			if l.Window == counter.InUse {
				continue
			}
			if b := in.counters[l.Key]; b != nil {
				b.turn(now)
				counts[i].Used += b.seen - b.before
			} else if c, known := s.seen.Load(l.Key); known {
				counts[i].Used = c.usedAt(now)
			} else {
				return counter.ErrOut
			}
		}
		return nil
	})
}
