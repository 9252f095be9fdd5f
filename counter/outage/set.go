package outage

import (
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A set remembers how its counters stood when the store answered last.
type set struct {
	store  *Store
	mode   mode
	shared counter.Set
	limits []counter.Limit
	seen   []seen
	local  atomic.Pointer[localSet] // of the newest outage in which it was asked
	losses atomic.Uint64            // of the store, after which what was seen was restored
}

// seen is what a counter held, and the window by its end.
type seen struct{ used, reset atomic.Int64 }

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
				s.see(counts)
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
	before, losses := s.losses.Load(), s.store.losses.Load()
	if before == losses || !s.losses.CompareAndSwap(before, losses) {
		return nil
	}
	counts := make([]counter.Count, len(s.limits))
	for i := range s.seen {
		counts[i] = counter.Count{Used: s.seen[i].usedAt(now), Reset: time.Unix(0, s.seen[i].reset.Load())}
	}
	err := s.store.shared.Restore(ctx, now, s.limits, counts)
	if err != nil {
		s.losses.Store(before)
	}
	return err //nolint:wrapcheck // It says what is wrong with the store.
}

func (s *set) see(counts []counter.Count) {
	for i := range s.seen {
		if s.limits[i].Window == counter.InUse {
			continue
		}
		s.seen[i].used.Store(counts[i].Used)
		s.seen[i].reset.Store(counts[i].Reset.UnixNano())
	}
}

// usedAt is what was seen of a counter that still counts.
func (s *seen) usedAt(now time.Time) int64 {
	if s.reset.Load() <= now.UnixNano() {
		return 0
	}
	return s.used.Load()
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
		used := s.seen[i].usedAt(now)
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
