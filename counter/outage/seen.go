package outage

import (
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

// turn has a counter seen in a window, unless it was seen in a later one.
func (s *Store) turn(key counter.Key, used, reset int64) *seen {
	c, _ := s.seen.Compute(key, func(c *seen, known bool) (*seen, xsync.ComputeOp) {
		if !known {
			c = &seen{}
			c.losses.Store(s.losses.Load())
		}
		if reset > c.reset.Load() {
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

// restore has the store know again what it has forgotten of a counter. Whoever asks for it meanwhile waits.
func (s *Store) restore(st *state, now time.Time, l counter.Limit, losses uint64) error {
	c, known := s.seen.Load(l.Key)
	if !known {
		return nil
	}
	c.restoring.Lock()
	defer c.restoring.Unlock()
	if c.losses.Load() == losses {
		return nil
	}
	if used := c.usedAt(now); used > 0 {
		held := counter.Count{Used: used, Reset: time.Unix(0, c.reset.Load())}
		if err := s.shared.Restore(st.calls, now, []counter.Limit{l}, []counter.Count{held}); err != nil {
			return err //nolint:wrapcheck // It says what is wrong with the store.
		}
		st.hear()
	}
	c.losses.Store(losses)
	return nil
}
