package outage

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/tierkeeper/tierkeeper/counter"
)

// remember is how long a counter is known after its window has ended: longer than a request may wait in a queue.
const remember = 10 * time.Minute

// seen is what a counter held when the store answered last, whoever asked, and the window by its end. Both are written without a
// lock: when a window ends, an answer that is late can leave too large a number until the next one comes.
type seen struct {
	used, reset atomic.Int64

	losses    atomic.Uint64 // of the store, after which this was restored
	restoring sync.Mutex
}

// usedAt is what was seen of a counter that still counts.
func (c *seen) usedAt(now time.Time) int64 {
	if c.reset.Load() <= now.UnixNano() {
		return 0
	}
	return c.used.Load()
}

// usedOf is what was seen of a counter, in the window that now lies in.
func (s *Store) usedOf(key counter.Key, now time.Time) int64 {
	if c, known := s.seen.Load(key); known {
		return c.usedAt(now)
	}
	return 0
}

// turn has a counter seen in a window, unless it was seen in a later one. If it was never seen, it is kept in what fresh returns.
func (s *Store) turn(key counter.Key, used, reset int64, fresh func() *seen) *seen {
	c, _ := s.seen.Compute(key, func(c *seen, known bool) (*seen, xsync.ComputeOp) {
		if !known {
			c = fresh()
			c.losses.Store(s.losses.Load())
		}
		if reset >= c.reset.Load() {
			c.used.Store(used)
			c.reset.Store(reset)
		}
		return c, xsync.UpdateOp
	})
	return c
}

// Sweep forgets what was seen of counters whose windows are over. Call it about once a minute. It visits every counter.
func (s *Store) Sweep(now time.Time) {
	horizon := now.Add(-remember).UnixNano()
	s.seen.DeleteMatching(func(_ counter.Key, c *seen) (over, stop bool) { return c.reset.Load() <= horizon, false })
	if in := s.aside.Load(); in != nil {
		in.local.Sweep(now)
	}
}

// look has what the store holds now seen, of all that was counted without it: the next outage may begin before anybody asks.
func (s *Store) look(ctx context.Context, now time.Time, in *standIn) error {
	_, err := each(slices.Collect(slices.Chunk(in.limits(now), counter.MaxLimits)), func(limits []counter.Limit) error {
		ctx, cancel := context.WithTimeout(ctx, settling)
		defer cancel()
		counts := make([]counter.Count, len(limits))
		if err := s.shared.Peek(ctx, now, limits, counts); err != nil {
			return readable(err)
		}
		for i, l := range limits {
			s.turn(l.Key, counts[i].Used, counts[i].Reset.UnixNano(), func() *seen { return new(seen) })
		}
		return nil
	})
	return err
}

// seeUntold has seen as well what was counted after the store was told.
func (s *Store) seeUntold(ctx context.Context, in *standIn) error {
	now := s.opts.Clock()
	limits := in.limits(now)
	keys := make([]counter.Key, len(limits))
	for i, l := range limits {
		keys[i] = l.Key
	}
	more, _, err := in.untold(ctx, now, keys, false)
	for _, m := range more {
		if c, known := s.seen.Load(m.Key); known {
			c.used.Add(m.Used)
		}
	}
	return err
}

// restoreAll has the store know again what it has forgotten of all that was counted without it. What is charged before would hide part
// of what is missing.
func (s *Store) restoreAll(ctx context.Context, now time.Time, in *standIn) error {
	losses := s.losses.Load()
	if losses == 0 {
		return nil
	}
	_, err := each(in.limits(now), func(l counter.Limit) error {
		ctx, cancel := context.WithTimeout(ctx, settling)
		defer cancel()
		_, err := s.restore(ctx, now, l, losses)
		return readable(err)
	})
	return err
}

// restore has the store know again what it has forgotten of a counter, and reports whether it was asked. Whoever asks for the counter
// meanwhile waits.
func (s *Store) restore(ctx context.Context, now time.Time, l counter.Limit, losses uint64) (asked bool, err error) {
	c, known := s.seen.Load(l.Key)
	if !known {
		return false, nil
	}
	c.restoring.Lock()
	defer c.restoring.Unlock()
	if c.losses.Load() == losses {
		return false, nil
	}
	if used := c.usedAt(now); used > 0 {
		held := counter.Count{Used: used, Reset: time.Unix(0, c.reset.Load())}
		if err := s.shared.Restore(ctx, now, []counter.Limit{l}, []counter.Count{held}); err != nil {
			return true, err //nolint:wrapcheck // It says what is wrong with the store.
		}
		asked = true
	}
	c.losses.Store(losses)
	return asked, nil
}
