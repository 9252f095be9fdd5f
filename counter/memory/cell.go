package memory

import (
	"sync"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A cell is one counter. Its size is that of a cache line, so what counts in calendar units has its whole state here, and
// other kinds have theirs in more.
type cell struct {
	key    counter.Key
	window counter.Window

	mu    sync.Mutex // guards all below
	dead  bool       // forgotten by the store; whoever still points here must open the key again
	dirty bool       // among Store.dirty
	next  *cell      // the next of Store.dirty
	end   int64      // of the window that used was taken in, in seconds since 1970; it never falls
	used  int64
	more  *more // nil for a calendar unit; other kinds have neither end nor used
}

// More is the state of another kind of counter: one of the two is not nil.
type more struct {
	slots *slots // for InUse
	ring  *ring  // for windows that slide
}

// newCell returns an empty cell that begins at horizon, in nanoseconds since 1970.
func newCell(key counter.Key, window counter.Window, horizon int64) *cell {
	// One piece of memory, because one part is always read after the other.
	switch {
	case window == counter.InUse:
		all := &struct {
			cell  cell
			more  more
			slots slots
		}{cell: cell{key: key, window: window}, slots: slots{clock: horizon}}
		all.slots.held = all.slots.few[:0]
		all.more.slots, all.cell.more = &all.slots, &all.more
		return &all.cell
	case window.Slides():
		all := &struct {
			cell cell
			more more
			ring ring
		}{cell: cell{key: key, window: window}, ring: ring{newest: max(window.Sub(time.Unix(0, horizon)), 0)}}
		all.more.ring, all.cell.more = &all.ring, &all.more
		return &all.cell
	}
	_, end := window.Bounds(time.Unix(0, horizon))
	return &cell{key: key, window: window, end: end.Unix()}
}

// slots are nil for all but InUse.
func (c *cell) slots() *slots {
	if c.more == nil {
		return nil
	}
	return c.more.slots
}

// ring is nil for all but windows that slide.
func (c *cell) ring() *ring {
	if c.more == nil {
		return nil
	}
	return c.more.ring
}

// count returns what the cell holds at now.
func (c *cell) count(now time.Time) counter.Count {
	if m := c.more; m != nil {
		if m.ring != nil {
			return m.ring.count(c.window, now)
		}
		return counter.Count{Used: m.slots.inUse(now.UnixNano())}
	}
	if now.Unix() < c.end { // also when now is before the window: time does not go back
		return counter.Count{Used: c.used, Reset: time.Unix(c.end, 0).UTC()}
	}
	_, end := c.window.Bounds(now)
	return counter.Count{Reset: end}
}

// take adds hits, which fit on top of count, and returns the count after it.
func (c *cell) take(now time.Time, count counter.Count, hits int64, lease counter.LeaseID, expiry time.Time) counter.Count {
	if m := c.more; m != nil {
		if m.ring != nil {
			return m.ring.take(c.window, now, hits)
		}
		m.slots.take(now.UnixNano(), lease, expiry.UnixNano())
		return c.count(now)
	}
	count.Used += hits
	c.used, c.end = count.Used, count.Reset.Unix()
	return count
}

// correct adds excess, which may be below 0, at a place of the cell, and reports whether that changed anything. Where the
// cell stands in an earlier window or sub-window it moves on for more, but not for less.
func (c *cell) correct(at, excess int64) bool {
	if r := c.ring(); r != nil {
		return r.correct(at, excess)
	}
	switch end := at; {
	case end < c.end, excess == 0, end > c.end && excess < 0:
		return false
	case end > c.end:
		c.end, c.used = end, 0
	}
	c.used = min(max(c.used+excess, 0), counter.MaxCount)
	return true
}

// over reports whether nothing that happens from horizon on can depend on what the cell holds.
func (c *cell) over(horizon int64) bool {
	if s := c.slots(); s != nil {
		return s.over(horizon)
	}
	if r := c.ring(); r != nil {
		return c.window.Sub(time.Unix(0, horizon))-r.newest >= ringSize
	}
	return c.end <= time.Unix(0, horizon).Unix()
}
