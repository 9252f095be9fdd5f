// Package memory counts in the memory of this process, and decides how that stays exact, fast and small: one lock for
// each counter, all locks of a request taken in the order of the keys, and counters forgotten once their window is over.
// A store can mirror its longer windows to a file, so that they outlive the process.
package memory

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// grace is how long a counter is kept after its window has ended, or all that it counted is gone. It must exceed what two readings of the clock that
// reach the store in the wrong order can lie apart.
const grace = time.Minute

// A Store keeps counters in memory. Use New or Load to make one.
//
// Windows only move forward. When the clock was far ahead and is set back, the counters stand still until it has caught
// up, or until a restart, which forgets what lies in the future: until then no window begins anew, and a slot is freed by
// its settlement alone.
//
// Whoever holds a lock of a shard may lock a cell, never the other way round; several cells are locked in the order of
// their keys.
type Store struct {
	shards [256]shard
	file   *file                // nil: nothing is kept
	dirty  atomic.Pointer[cell] // changed since the last flush, linked by cell.next; only pushed, and taken as a whole
}

// A shard holds the cells of the keys that begin with one byte. A key has at most one cell that is not dead.
type shard struct {
	mu    sync.RWMutex
	cells map[counter.Key]*cell
	// horizon is the time, in nanoseconds since 1970, up to which ended windows have been forgotten. A cell made
	// afterwards starts there: counting in a forgotten window would begin at 0 again.
	horizon int64
}

var _ counter.Store = (*Store)(nil)

// New returns an empty store that keeps nothing beyond the life of the process.
func New() *Store {
	s := &Store{}
	for i := range s.shards {
		s.shards[i].cells = make(map[counter.Key]*cell)
	}
	return s
}

// Open implements [counter.Store].
func (s *Store) Open(limits []counter.Limit) counter.Set {
	if len(limits) > counter.MaxLimits {
		panic(fmt.Sprintf("memory: %d limits in one set, at most %d are possible", len(limits), counter.MaxLimits))
	}
	set := &set{store: s, members: make([]member, len(limits))}
	for i, place := range lockingOrder(limits) {
		l := limits[place]
		if !l.Window.Valid() {
			panic(fmt.Sprintf("memory: limit %d has an unknown window, %v", place, l.Window))
		}
		m := &set.members[i]
		m.max, m.place = l.Max, place
		m.cell.Store(s.open(l.Key, l.Window))
	}
	return set
}

// lockingOrder returns the places of limits in the order of their keys. It panics when two keys are equal: the second
// lock would wait for the first for ever.
func lockingOrder(limits []counter.Limit) []int {
	order := make([]int, len(limits))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		c := bytes.Compare(limits[a].Key[:], limits[b].Key[:])
		if c == 0 && a != b {
			panic(fmt.Sprintf("memory: limits %d and %d of one set have the same key", a, b))
		}
		return c
	})
	return order
}

// Settle implements [counter.Store]. It does not fail.
func (s *Store) Settle(_ context.Context, now time.Time, settlement counter.Settlement) error {
	for _, charge := range settlement.Charges {
		if charge.Window == counter.InUse {
			s.free(now, settlement.Lease, charge.Key)
		} else {
			s.correct(now, settlement.Taken, charge)
		}
	}
	return nil
}

// free opens the counter even where it is not there, because it has to remember the lease.
func (s *Store) free(now time.Time, lease counter.LeaseID, key counter.Key) {
	c := s.lock(key, counter.InUse)
	defer c.mu.Unlock()
	if slots := c.slots(); slots != nil {
		slots.free(now.UnixNano(), lease)
	}
}

func (s *Store) correct(now, taken time.Time, charge counter.Charge) {
	at, ended := place(charge.Window, taken, now)
	if ended {
		return
	}
	excess := charge.Excess()
	var c *cell
	if excess > 0 {
		c = s.lock(charge.Key, charge.Window)
	} else if c = s.lockFound(charge.Key); c == nil {
		return
	}
	defer c.mu.Unlock()
	if c.window == charge.Window && c.correct(at, excess) {
		s.touch(c)
	}
}

// place says where a cell keeps what was taken, the end of a window or the number of a sub-window, and whether it no longer
// counts at now.
func place(w counter.Window, taken, now time.Time) (at int64, ended bool) {
	if w.Slides() {
		at = w.Sub(taken)
		return at, w.Sub(now)-at >= ringSize
	}
	_, end := w.Bounds(taken)
	return end.Unix(), !end.After(now)
}

// Renew implements [counter.Store]. It does not fail.
func (s *Store) Renew(_ context.Context, now time.Time, lease counter.LeaseID, keys []counter.Key, expiry time.Time) error {
	for _, key := range keys {
		c := s.lock(key, counter.InUse)
		if slots := c.slots(); slots != nil {
			slots.renew(now.UnixNano(), lease, expiry.UnixNano())
		}
		c.mu.Unlock()
	}
	return nil
}

// Peek implements [counter.Store]. It does not fail.
func (s *Store) Peek(_ context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	counts = counts[:len(limits)]
	for i, l := range limits {
		counts[i] = s.count(now, l)
	}
	return nil
}

func (s *Store) count(now time.Time, l counter.Limit) counter.Count {
	if c := s.lockFound(l.Key); c != nil {
		defer c.mu.Unlock()
		return c.count(now)
	}
	return newCell(l.Key, l.Window, s.horizon(l.Key)).count(now)
}

// Len returns the number of counters held in memory.
func (s *Store) Len() int {
	n := 0
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.RLock()
		n += len(sh.cells)
		sh.mu.RUnlock()
	}
	return n
}

// Sweep forgets the counters whose window, and the slots whose last lease, ended more than a minute before now. Call it
// about once a minute; a store that is never swept grows with every key that it has ever seen. It visits every counter,
// but holds up only those few that it is looking at.
func (s *Store) Sweep(now time.Time) {
	horizon := now.Add(-grace).UnixNano()
	for i := range s.shards {
		s.sweep(&s.shards[i], horizon)
	}
}

func (s *Store) sweep(sh *shard, horizon int64) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.horizon = max(sh.horizon, horizon)
	for key, c := range sh.cells {
		c.mu.Lock()
		if c.over(sh.horizon) {
			c.dead = true
			delete(sh.cells, key)
			s.touch(c) // it must go from the file as well
		}
		c.mu.Unlock()
	}
}
