package counter

import "time"

// A sliding window is counted in sub-windows, SubWindows to its unit, which begin at multiples of their length since 1970.
// Every one that overlaps the last unit counts in full: the current one and the SubWindows before it. So no interval that is
// as long as the unit ever holds more than a limit, and nothing is refused that would fit if the unit were longer by one
// sub-window. A take goes to the current sub-window, which for a clock that is behind is the latest that was counted in.
const SubWindows = 16

// Slides reports whether w is a sliding window.
func (w Window) Slides() bool { return w.sixteenths() > 0 }

// sixteenths is the length of a sub-window in sixteenths of a second; 0 for what does not slide.
func (w Window) sixteenths() int64 {
	switch w {
	case SlidingSecond:
		return 1
	case SlidingMinute:
		return 60
	case SlidingHour:
		return 60 * 60
	default:
		return 0
	}
}

// sixteenth is a sixteenth of a second in nanoseconds.
const sixteenth = 1_000_000_000 / SubWindows

// Sub returns the number of the sub-window that now lies in, counted from 1970. It is 0 for windows that do not slide.
func (w Window) Sub(now time.Time) int64 {
	n := now.Unix()*SubWindows + int64(now.Nanosecond())/sixteenth
	// Constants, because it runs for each request, and a division by anything else takes long.
	switch w {
	case SlidingSecond:
		return n
	case SlidingMinute:
		return floor(n, 60)
	case SlidingHour:
		return floor(n, 60*60)
	default:
		return 0
	}
}

// floor divides n by d, and rounds down, before 1970 too.
func floor(n, d int64) int64 {
	q := n / d
	if n%d < 0 {
		q--
	}
	return q
}

// Gone returns when what was taken in sub-window number sub no longer counts: one unit after the end of it, in UTC. It is
// the end of the unit if sub is the current one.
func (w Window) Gone(sub int64) time.Time {
	n := (sub + SubWindows + 1) * w.sixteenths()
	s := floor(n, SubWindows)
	return time.Unix(s, (n-s*SubWindows)*sixteenth).UTC()
}
