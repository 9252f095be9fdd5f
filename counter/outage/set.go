package outage

import (
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A set has its counters seen when the store answers.
type set struct {
	store  *Store
	mode   mode
	shared counter.Set
	limits []counter.Limit
	seen   []atomic.Pointer[seen] // those of the store, without a look into its map; nil: not seen by this set
	room   atomic.Pointer[[]seen] // for those that the store does not have: each request needs all, so they lie together
}

// Acquire implements [counter.Set].
func (s *set) Acquire(ctx context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count) (bool, error) {
	asked := false // in vain: the store may have taken what it did not say
	for {
		st := s.store.state.Load()
		in := st.out
		if in == nil {
			waits := st.begin()
			ok, err := s.ask(st, now, lease, expiry, hits, counts)
			over := st.end(waits, len(s.limits) > 0, err)
			switch {
			case err == nil:
				return ok, nil
			case over:
				in = s.store.setAside(now, err)
			default:
				if err := s.store.fail(st, now, err); err != nil {
					return false, err
				}
				asked = true
				continue
			}
		}
		if s.mode == deny {
			return false, counter.ErrOut
		}
		if ok, done, err := in.acquire(ctx, s, now, lease, expiry, hits, counts, asked); done {
			return ok, err
		}
	}
}

// ask asks the store, which first is to know again what it has forgotten.
func (s *set) ask(st *state, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count) (bool, error) {
	if losses := s.store.losses.Load(); losses > 0 {
		if err := s.restore(st, now, losses); err != nil {
			return false, err
		}
	}
	ok, err := s.shared.Acquire(st.calls, now, lease, expiry, hits, counts)
	if err == nil {
		s.see(now, ok, counts)
	}
	return ok, err //nolint:wrapcheck // It says what is wrong with the store.
}

func (s *set) restore(st *state, now time.Time, losses uint64) error {
	for i, l := range s.limits {
		if c := s.seen[i].Load(); c != nil && c.losses.Load() == losses {
			continue
		}
		asked, err := s.store.restore(st.calls, now, l, losses)
		if err != nil {
			return err
		}
		if asked {
			st.hear()
		}
	}
	return nil
}

func (s *set) see(now time.Time, admitted bool, counts []counter.Count) {
	for i := range s.limits {
		l := &s.limits[i]
		if l.Window == counter.InUse {
			continue
		}
		reset := counts[i].Reset.UnixNano()
		if !admitted && l.Window.Slides() { // It may say when there is room, which is before all is gone that was counted.
			reset = max(reset, goneAfter(l.Window, now).UnixNano())
		}
		if c := s.seen[i].Load(); c != nil && c.reset.Load() == reset {
			c.used.Store(counts[i].Used)
		} else {
			s.seen[i].Store(s.store.turn(l.Key, counts[i].Used, reset, func() *seen { return s.newSeen(i) }))
		}
	}
}

// newSeen is where what is seen of limit i is kept if it was not seen before, or is forgotten.
func (s *set) newSeen(i int) *seen {
	if s.room.Load() == nil {
		room := make([]seen, len(s.limits))
		s.room.CompareAndSwap(nil, &room)
	}
	return &(*s.room.Load())[i]
}

// A localSet is a set while the store is out: the counters of this process, with the limits of this replica.
type localSet struct {
	set    counter.Set
	limits []counter.Limit
}

// unlimited is the Max of what is only counted.
const unlimited = math.MaxInt64

// localIn is the set in an outage.
func (s *set) localIn(ctx context.Context, in *standIn, now time.Time) (*localSet, error) {
	if l, known := in.sets.Load(s); known {
		return l, nil
	}
	limits := slices.Clone(s.limits)
	for i := range limits {
		l := &limits[i]
		if l.Max = part(l.Max, in.replicas); s.mode == allow || l.Window == counter.InUse && in.replicas > 1 && l.Max > 0 {
			l.Max = unlimited
		}
		if err := in.begin(ctx, now, s.limits[i], l.Max, s.store.usedOf(l.Key, now)); err != nil {
			return nil, err
		}
	}
	if in.sets.Size() > maxSets {
		in.sets.Clear()
	}
	l := &localSet{set: in.local.Open(limits), limits: limits}
	in.sets.Store(s, l)
	return l, nil
}

// part is what one of the replicas may admit of n: at least one of something.
func part(n, replicas int64) int64 {
	if n <= 0 {
		return 0
	}
	return max(n/replicas, 1)
}

// translate makes counts of this process ones of the limits that hold for all replicas together: what remains is what remains
// here. What is only counted refuses nothing.
func (l *localSet) translate(limits []counter.Limit, hits []int64, ok bool, counts []counter.Count) {
	for i := range limits {
		most := max(limits[i].Max, 0)
		switch {
		case l.limits[i].Max != unlimited:
			counts[i].Used += most - l.limits[i].Max
		case ok:
			counts[i].Used = min(counts[i].Used, most)
		default:
			counts[i].Used = min(counts[i].Used, most-max(hits[i], 0))
		}
	}
}
