package memory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// The versions of the values in the file. Each kind of counter has its own, so that a version of this program that does
// not know one kind can still read a file without it.
const (
	calendarLayout = 1
	slidingLayout  = 2
)

// latest is the end of the year 9999: beyond it the calendar of package time does not reach everywhere.
const latest = 253402300800

var errNewer = errors.New("its layout is not known here")

// kept reports whether counters of window w are written to the file. A second is over before the process is back, and
// a slot belongs to a stream, which does not outlive the process.
func kept(w counter.Window) bool {
	return w >= counter.Minute && w <= counter.Month || w == counter.SlidingMinute || w == counter.SlidingHour
}

// A record is what the file says of one counter; the key stands beside it. The fields of its type follow one another in
// the file as they do here, big endian.
type record interface {
	window() counter.Window
	check() error
	// over reports whether nothing of it counts any more at now.
	over(now time.Time) bool
	// runs reports whether any of it counts at now.
	runs(now time.Time) bool
	// restore fills an empty cell of the same window with what counts at now.
	restore(c *cell, now time.Time)
}

// recordOf returns what is to be written of a cell, which the caller has locked.
func recordOf(c *cell) record {
	r := c.ring()
	if r == nil {
		return &calendar{calendarLayout, c.window, c.end, c.used}
	}
	s := &sliding{Layout: slidingLayout, Window: c.window, Newest: r.newest}
	for i := range s.Taken {
		s.Taken[i] = *r.at(r.newest - int64(i))
	}
	return s
}

func encode(r record) []byte {
	b, _ := binary.Append(nil, binary.BigEndian, r) // fails only for types without a fixed size
	return b
}

func decode(b []byte) (record, error) {
	var r record = &calendar{}
	if len(b) > 0 && b[0] == slidingLayout {
		r = &sliding{}
	} else if len(b) > 0 && b[0] > slidingLayout {
		return nil, errNewer
	}
	if n, err := binary.Decode(b, binary.BigEndian, r); err != nil || n != len(b) {
		return nil, fmt.Errorf("a value of %d bytes is not a counter", len(b))
	}
	return r, r.check()
}

// A calendar is the record of a counter per calendar unit.
type calendar struct {
	Layout byte
	Window counter.Window
	End    int64 // of the window, in seconds since 1970
	Used   int64
}

func (r *calendar) check() error {
	if r.Layout != calendarLayout || !kept(r.Window) || r.Window.Slides() || r.Used < 0 || r.Used > counter.MaxCount || r.End < 1 || r.End > latest {
		return fmt.Errorf("a counter cannot have layout %d, window %v, end %d and count %d", r.Layout, r.Window, r.End, r.Used)
	}
	if _, end := r.span(); end.Unix() != r.End {
		return fmt.Errorf("no %v ends at %d", r.Window, r.End)
	}
	return nil
}

func (r *calendar) window() counter.Window { return r.Window }

func (r *calendar) span() (start, end time.Time) { return r.Window.Bounds(time.Unix(r.End-1, 0)) }

func (r *calendar) over(now time.Time) bool { return r.End <= now.Unix() }

func (r *calendar) runs(now time.Time) bool {
	start, end := r.span()
	return !now.Before(start) && now.Before(end)
}

func (r *calendar) restore(c *cell, _ time.Time) { c.end, c.used = r.End, r.Used }

// A sliding is the record of a counter whose window slides.
type sliding struct {
	Layout byte
	Window counter.Window
	Newest int64           // number of the sub-window that Taken begins with
	Taken  [ringSize]int64 // from the newest to the oldest
}

func (r *sliding) check() error {
	if !kept(r.Window) || !r.Window.Slides() || r.Newest < 0 || r.Newest > r.Window.Sub(time.Unix(latest, 0)) {
		return fmt.Errorf("a counter cannot have layout %d, window %v and sub-window %d", r.Layout, r.Window, r.Newest)
	}
	room := int64(counter.MaxCount)
	for _, n := range r.Taken {
		if n < 0 || n > room {
			return fmt.Errorf("a counter cannot hold %d", r.Taken)
		}
		room -= n
	}
	return nil
}

func (r *sliding) window() counter.Window { return r.Window }

func (r *sliding) over(now time.Time) bool { return r.Window.Sub(now)-r.Newest >= ringSize }

func (r *sliding) runs(now time.Time) bool {
	return !r.over(now) && r.Newest-r.Window.Sub(now) < ringSize
}

func (r *sliding) restore(c *cell, now time.Time) {
	ring := c.ring()
	ring.newest = r.Newest
	for i, n := range r.Taken {
		*ring.at(r.Newest - int64(i)) = n
		ring.used += n
	}
	ring.forget(r.Window.Sub(now))
}
