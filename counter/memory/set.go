package memory

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A set is the counters of one identity, in the order of their keys, which is the order of locking.
type set struct {
	store   *Store
	members []member
}

type member struct {
	max   int64
	place int // among the limits of the caller
	cell  atomic.Pointer[cell]
}

// Acquire implements [counter.Set]. It does not fail.
func (s *set) Acquire(
	_ context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (bool, error) {
	hits, counts = hits[:len(s.members)], counts[:len(s.members)]
	var room [counter.MaxLimits]*cell
	cells := room[:len(s.members)]
	s.lock(cells)
	defer unlock(cells)

	ok := true
	for i, c := range cells {
		m := &s.members[i]
		counts[m.place] = c.count(now)
		ok = ok && counter.Limit{Max: m.max}.Fits(counts[m.place].Used, hits[m.place])
	}
	if !ok {
		s.resetRefused(now, cells, hits, counts)
		return false, nil
	}
	for i, c := range cells {
		place := s.members[i].place
		if hits[place] > 0 {
			counts[place] = c.take(now, counts[place], hits[place], lease, expiry)
			s.store.touch(c)
		}
	}
	return true, nil
}

// resetRefused sets the Reset of the counts that refused.
func (s *set) resetRefused(now time.Time, cells []*cell, hits []int64, counts []counter.Count) {
	for i, c := range cells {
		m := &s.members[i]
		l := counter.Limit{Max: m.max}
		if r := c.ring(); r != nil && !l.Fits(counts[m.place].Used, hits[m.place]) {
			counts[m.place].Reset = r.fits(c.window, now, l.Ceiling(), hits[m.place])
		}
	}
}

// lock fills cells with those of the members, all locked and alive.
func (s *set) lock(cells []*cell) {
	for i := 0; i < len(cells); i++ {
		m := &s.members[i]
		c := m.cell.Load()
		c.mu.Lock()
		cells[i] = c
		if c.dead {
			// Opening locks the shard, which nobody may do who holds a cell.
			unlock(cells[:i+1])
			m.cell.Store(s.store.open(c.key, c.window))
			i = -1
		}
	}
}

func unlock(cells []*cell) {
	for _, c := range cells {
		c.mu.Unlock()
	}
}
