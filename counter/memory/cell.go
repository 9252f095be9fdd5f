package memory

import (
	"math"
	"sync"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A cell is one counter. Its size is that of a cache line.
type cell struct {
	key    counter.Key
	window counter.Window

	mu    sync.Mutex // guards all below
	dead  bool       // forgotten by the store; whoever still points here must open the key again
	dirty bool       // among Store.dirty
	next  *cell      // the next of Store.dirty
	end   int64      // of the window that used was taken in, in seconds since 1970; it never falls
	used  int64
	slots *slots // nil for all but InUse, which has neither end nor used
}

// newCell returns an empty cell that begins at horizon, in nanoseconds since 1970.
func newCell(key counter.Key, window counter.Window, horizon int64) *cell {
	if window == counter.InUse {
		// One piece of memory, because one part is always read after the other.
		both := &struct {
			cell  cell
			slots slots
		}{cell{key: key, window: window}, slots{clock: horizon}}
		both.slots.held = both.slots.few[:0]
		both.cell.slots = &both.slots
		return &both.cell
	}
	_, end := window.Bounds(time.Unix(0, horizon))
	return &cell{key: key, window: window, end: end.Unix()}
}

// count returns what the cell holds at now.
func (c *cell) count(now time.Time) counter.Count {
	if c.slots != nil {
		return counter.Count{Used: c.slots.inUse(now.UnixNano())}
	}
	if now.Unix() < c.end { // also when now is before the window: time does not go back
		return counter.Count{Used: c.used, Reset: time.Unix(c.end, 0).UTC()}
	}
	_, end := c.window.Bounds(now)
	return counter.Count{Reset: end}
}

// take adds hits, which fit on top of count, and returns the count after it.
func (c *cell) take(now time.Time, count counter.Count, hits int64, lease counter.LeaseID, expiry time.Time) counter.Count {
	if c.slots != nil {
		c.slots.take(now.UnixNano(), lease, expiry.UnixNano())
		return c.count(now)
	}
	count.Used += hits
	c.used, c.end = count.Used, count.Reset.Unix()
	return count
}

// correct adds excess, which may be below 0, to the window that ends at end, and reports whether that changed anything.
// Where the cell stands in an earlier window it moves on for more, but not for less.
func (c *cell) correct(end, excess int64) bool {
	switch {
	case c.slots != nil, end < c.end, excess == 0, end > c.end && excess < 0:
		return false
	case end > c.end:
		c.end, c.used = end, 0
	}
	if excess > math.MaxInt64-c.used {
		c.used = math.MaxInt64
	} else {
		c.used = max(c.used+excess, 0)
	}
	return true
}

// over reports whether nothing that happens from horizon on can depend on what the cell holds.
func (c *cell) over(horizon int64) bool {
	if c.slots != nil {
		return c.slots.over(horizon)
	}
	return c.end <= time.Unix(0, horizon).Unix()
}
