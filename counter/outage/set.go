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
	seen   []atomic.Pointer[seen]   // those of the store, without a look into its map; nil: not seen by this set
	local  atomic.Pointer[localSet] // of the newest outage in which it was asked
}

// Acquire implements [counter.Set].
func (s *set) Acquire(ctx context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count) (bool, error) {
	for {
		st := s.store.state.Load()
		if st.out == nil {
			s.store.pending.Add(1)
			err := s.restore(st.calls, now)
			ok := false
			if err == nil {
				ok, err = s.shared.Acquire(st.calls, now, lease, expiry, hits, counts)
			}
			s.store.pending.Add(-1)
			if err == nil {
				s.store.answers.Add(1)
				s.see(now, counts)
				return ok, nil
			}
			if err := s.store.fail(st, now, err); err != nil {
				return false, err
			}
			continue
		}
		if s.mode == deny {
			return false, counter.ErrOut
		}
		if ok, done, err := st.out.acquire(ctx, s, now, lease, expiry, hits, counts); done {
			return ok, err
		}
	}
}

// restore has the store know again what it has forgotten.
func (s *set) restore(ctx context.Context, now time.Time) error {
	losses := s.store.losses.Load()
	if losses == 0 {
		return nil
	}
	for i, l := range s.limits {
		if c := s.seen[i].Load(); c != nil && c.losses.Load() == losses {
			continue
		}
		if err := s.store.restore(ctx, now, l, losses); err != nil {
			return err
		}
	}
	return nil
}

func (s *set) see(now time.Time, counts []counter.Count) {
	for i := range s.limits {
		l := &s.limits[i]
		if l.Window == counter.InUse {
			continue
		}
		reset := endOf(l.Window, now, counts[i])
		if c := s.seen[i].Load(); c != nil && c.reset.Load() == reset {
			c.used.Store(counts[i].Used)
		} else {
			s.seen[i].Store(s.store.turn(l.Key, counts[i].Used, reset))
		}
	}
}

// A localSet is a set while the store is out: the counters of this process, with the limits of this replica.
type localSet struct {
	in     *standIn
	set    counter.Set
	limits []counter.Limit
}

// localIn is the set in an outage.
func (s *set) localIn(ctx context.Context, in *standIn, now time.Time) (*localSet, error) {
	if l := s.local.Load(); l != nil && l.in == in {
		return l, nil
	}
	limits := slices.Clone(s.limits)
	for i := range limits {
		used := s.store.usedOf(limits[i].Key, now)
		if s.mode == allow {
			limits[i].Max, used = math.MaxInt64, 0
		} else {
			limits[i].Max = part(s.limits[i].Max, in.replicas)
		}
		if err := in.begin(ctx, now, s.limits[i], limits[i].Max, used); err != nil {
			return nil, err
		}
	}
	l := &localSet{in: in, set: in.local.Open(limits), limits: limits}
	s.local.Store(l)
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
// here.
func (l *localSet) translate(limits []counter.Limit, counts []counter.Count) {
	for i := range limits {
		if most := max(limits[i].Max, 0); l.limits[i].Max == math.MaxInt64 {
			counts[i].Used = min(counts[i].Used, most)
		} else {
			counts[i].Used += most - l.limits[i].Max
		}
	}
}
