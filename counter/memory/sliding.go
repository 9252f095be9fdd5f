package memory

import (
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// ringSize is how many sub-windows count at once.
const ringSize = counter.SubWindows + 1

// A ring is what a counter with a sliding window holds. Sub-windows go by their numbers.
type ring struct {
	newest int64 // the latest sub-window that was counted in; it never falls, and is never below 0
	used   int64 // the sum of taken, which fits
	taken  [ringSize]int64
}

// at is the place of a sub-window that counts when the newest does.
func (r *ring) at(sub int64) *int64 {
	return &r.taken[uint64(sub+ringSize)%ringSize] //nolint:gosec // Of a newest that is not below 0 none is below -16.
}

// current is the sub-window that now counts in: time does not go back.
func (r *ring) current(w counter.Window, now time.Time) int64 { return max(w.Sub(now), r.newest) }

// count returns what the ring holds at now.
func (r *ring) count(w counter.Window, now time.Time) counter.Count {
	sub := r.current(w, now)
	return counter.Count{Used: r.counted(sub), Reset: w.Gone(r.last(sub, 0))}
}

// take adds hits, which are above 0 and fit on top of what counts at now, and returns the count after it.
func (r *ring) take(w counter.Window, now time.Time, hits int64) counter.Count {
	r.advance(w.Sub(now))
	*r.at(r.newest) += hits
	r.used += hits
	return counter.Count{Used: r.used, Reset: w.Gone(r.newest)}
}

// fits returns when hits fit again below a ceiling that do not fit at now.
func (r *ring) fits(w counter.Window, now time.Time, ceiling, hits int64) time.Time {
	return w.Gone(r.last(r.current(w, now), max(ceiling-hits, 0)))
}

// counted is what counts at sub, which is not before the newest.
func (r *ring) counted(sub int64) int64 {
	if sub == r.newest {
		return r.used
	}
	if sub-r.newest >= ringSize {
		return 0
	}
	used := r.used
	for s := r.newest + 1; s <= sub; s++ {
		used -= *r.at(s) // which holds the one that is gone when s comes
	}
	return used
}

// last is the sub-window that must be gone for no more than most to be left of what counts at sub; sub itself if no more
// than that counts.
func (r *ring) last(sub, most int64) int64 {
	sum := int64(0)
	for s := r.newest; s > sub-ringSize; s-- {
		if sum += *r.at(s); sum > most {
			return s
		}
	}
	return sub
}

// advance makes sub the newest, if it is not before that.
func (r *ring) advance(sub int64) {
	for s := max(r.newest+1, sub-ringSize+1); s <= sub; s++ {
		place := r.at(s)
		r.used -= *place
		*place = 0
	}
	r.newest = max(r.newest, sub)
}

// correct adds excess, which may be below 0, to sub, and reports whether that changed anything. Where the newest comes
// before it, it becomes the newest for more, but not for less.
func (r *ring) correct(sub, excess int64) bool {
	if excess == 0 || r.newest-sub >= ringSize || sub > r.newest && excess < 0 {
		return false
	}
	r.advance(sub)
	place := r.at(sub)
	excess = max(min(excess, counter.MaxCount-r.used), -*place)
	*place += excess
	r.used += excess
	return true
}

// forget drops what was counted later than sub, as if it had not been.
func (r *ring) forget(sub int64) {
	for ; r.newest > sub; r.newest-- {
		place := r.at(r.newest)
		r.used -= *place
		*place = 0
	}
}
