package counter

import (
	"fmt"
	"time"
)

// A Window is the span that a counter counts in: a calendar unit in UTC, unless it slides or is InUse.
type Window uint8

// The numbers are kept in files and in leases: they must not change.
const (
	Second Window = iota + 1
	Minute
	Hour
	Day
	Month
	// InUse counts what is held at the moment, such as requests in flight: slots held by leases, in no window of time.
	InUse
	// SlidingSecond counts what was taken within the last second, wherever that began: see [Window.Sub].
	SlidingSecond
	// SlidingMinute does the same for a minute.
	SlidingMinute
	// SlidingHour does the same for an hour.
	SlidingHour
)

var windowNames = [...]string{
	Second: "Second", Minute: "Minute", Hour: "Hour", Day: "Day", Month: "Month", InUse: "InUse",
	SlidingSecond: "SlidingSecond", SlidingMinute: "SlidingMinute", SlidingHour: "SlidingHour",
}

// Valid reports whether w is one of the constants above.
func (w Window) Valid() bool { return w >= Second && w <= SlidingHour }

// String returns the name of the constant.
func (w Window) String() string {
	if !w.Valid() {
		return fmt.Sprintf("Window(%d)", uint8(w))
	}
	return windowNames[w]
}

// Bounds returns the calendar unit that now lies in, in UTC: from start up to, and not including, end. Both are zero for
// InUse, which has no bounds, and for windows that slide, which have others at every moment.
func (w Window) Bounds(now time.Time) (start, end time.Time) {
	switch w {
	case Second:
		return span(now, 1)
	case Minute:
		return span(now, 60)
	case Hour:
		return span(now, 60*60)
	case Day:
		return span(now, 24*60*60) // UTC has no days of 23 or 25 hours
	case Month:
		year, month, _ := now.UTC().Date()
		return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC), time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC)
	default:
		return time.Time{}, time.Time{}
	}
}

// span returns the multiples of some seconds since 1970 that now lies between. It runs for each request: package time's
// Truncate is several times slower.
func span(now time.Time, seconds int64) (start, end time.Time) {
	s := now.Unix()
	s -= (s%seconds + seconds) % seconds // before 1970 too
	return time.Unix(s, 0).UTC(), time.Unix(s+seconds, 0).UTC()
}
