package countertest

import (
	"math"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
)

var units = [...]time.Duration{
	counter.SlidingSecond: time.Second, counter.SlidingMinute: time.Minute, counter.SlidingHour: time.Hour,
}

// slidingWindows tests each window that slides, on a counter and a day of its own. At is the time that lies some sixteenths
// of the unit, which are sub-windows, after midnight, where one begins.
func (f *fixture) slidingWindows(most int64, test func(l counter.Limit, set counter.Set, at func(sixteenths float64) time.Time)) {
	f.Helper()
	for w := counter.SlidingSecond; w <= counter.SlidingHour; w++ {
		f.days++
		l, midnight := f.limit(w, most), time.Date(2024, time.February, f.days, 0, 0, 0, 0, time.UTC)
		test(l, f.store.Open([]counter.Limit{l}), func(sixteenths float64) time.Time {
			return midnight.Add(time.Duration(sixteenths * float64(units[w]) / counter.SubWindows))
		})
	}
}

// wantCount checks what a call of Acquire or Peek said of a counter.
func (f *fixture) wantCount(l counter.Limit, what string, got []counter.Count, used int64, reset time.Time) {
	f.Helper()
	if diff := cmp.Diff([]counter.Count{{Used: used, Reset: reset}}, got); diff != "" {
		f.Fatalf("%s of a %v (-want +got):\n%s", what, l.Window, diff)
	}
}

// slidingWindowsHaveNoEdge at which a client who has used up one unit could begin another.
func slidingWindowsHaveNoEdge(f *fixture) {
	f.slidingWindows(4, func(l counter.Limit, set counter.Set, at func(float64) time.Time) {
		_, _, counts := f.acquire(set, at(15.2), 1)
		f.wantCount(l, "the first take", counts, 1, at(32))
		_, _, counts = f.acquire(set, at(15.9).In(time.FixedZone("UTC+13:45", 13*60*60+45*60)), 2)
		f.wantCount(l, "a take in the same sub-window", counts, 3, at(32))
		_, _, counts = f.acquire(set, at(18), 1)
		f.wantCount(l, "a take in another", counts, 4, at(35))
		f.wantCount(l, "a look", f.peek(at(20), l), 4, at(35))

		f.refuse(set, at(31.5), 1) // more than a unit after the first
		f.refuse(set, at(32).Add(-1), 1)
		f.wantCount(l, "a look when three are gone", f.peek(at(32), l), 1, at(35))
		f.take(set, at(32), 3)
		f.refuse(set, at(35).Add(-1), 1)
		f.take(set, at(35), 1)
		f.wantCount(l, "a look when all is gone", f.peek(at(80), l), 0, at(80+17))
	})
}

// slidingWindowsOnlyMoveForward although two goroutines may reach the store in another order than they read the clock in.
func slidingWindowsOnlyMoveForward(f *fixture) {
	f.slidingWindows(4, func(l counter.Limit, set counter.Set, at func(float64) time.Time) {
		f.take(set, at(0.5), 2)
		f.take(set, at(3), 1)
		_, _, counts := f.acquire(set, at(3).Add(-1), 1)
		f.wantCount(l, "a take before the current sub-window", counts, 4, at(20))
		f.refuse(set, at(3).Add(-1), 1)
		f.wantUsed(at(3).Add(-1), []counter.Limit{l}, 4)
		f.wantUsed(at(17), []counter.Limit{l}, 2)
		f.wantUsed(at(20).Add(-1), []counter.Limit{l}, 2)
		f.wantUsed(at(20), []counter.Limit{l}, 0)
	})
}

// slidingWindowsSayWhenHitsFit to whom they refuse, and it is true.
func slidingWindowsSayWhenHitsFit(f *fixture) {
	for name, test := range map[string]struct {
		hits int64
		fit  float64
	}{
		"one":               {hits: 1, fit: 17},
		"two":               {hits: 2, fit: 17},
		"three":             {hits: 3, fit: 22},
		"as many as can be": {hits: 9, fit: 26},
		"more than can be":  {hits: 10, fit: 26},
	} {
		f.slidingWindows(9, func(l counter.Limit, set counter.Set, at func(float64) time.Time) {
			f.take(set, at(0), 2)
			f.take(set, at(5), 3)
			f.take(set, at(9), 4)
			_, ok, counts := f.acquire(set, at(10), test.hits)
			if ok {
				f.Fatalf("%d hits of a %v are taken on top of 9", test.hits, l.Window)
			}
			f.wantCount(l, "a refusal of "+name, counts, 9, at(test.fit))
			f.wantCount(l, "a look", f.peek(at(10), l), 9, at(26))
			f.refuse(set, at(test.fit).Add(-1), test.hits)
			if test.hits <= l.Max {
				f.take(set, at(test.fit), test.hits)
			}
		})
	}

	// Other limits say what they would have said, and one that is empty can refuse too.
	f.slidingWindows(1, func(l counter.Limit, _ counter.Set, at func(float64) time.Time) {
		minute := f.limit(counter.Minute, 1)
		_, _, counts := f.acquire(f.store.Open([]counter.Limit{l, minute}), at(3), 2, 1)
		f.wantCount(l, "a refusal when nothing is counted", counts[:1], 0, at(20))
		f.wantCount(minute, "a limit that has room", counts[1:], 0, f.peek(at(3), minute)[0].Reset)
		other := f.limit(l.Window, 5)
		set := f.store.Open([]counter.Limit{l, other})
		f.take(set, at(3), 1, 1)
		f.take(set, at(8), 0, 1)
		_, _, counts = f.acquire(set, at(8), 1, 3)
		f.wantCount(l, "a limit that refused", counts[:1], 1, at(20))
		f.wantCount(other, "a limit beside it", counts[1:], 2, at(25))
	})
}

// aRefusalMovesNoSlidingWindow because it changes nothing.
func aRefusalMovesNoSlidingWindow(f *fixture) {
	f.slidingWindows(2, func(l counter.Limit, set counter.Set, at func(float64) time.Time) {
		f.take(set, at(0), 2)
		f.refuse(f.store.Open([]counter.Limit{l, f.limit(counter.Minute, 0)}), at(17), 1, 1)
		f.take(set, at(17), 0)
		f.wantUsed(at(17).Add(-1), []counter.Limit{l}, 2)
		f.wantUsed(at(17), []counter.Limit{l}, 0)
	})
}

func settleCorrectsTheSubWindow(f *fixture) {
	for name, test := range map[string]struct{ charged, used, want int64 }{
		"a refund":                         {charged: 4, used: 1, want: 1},
		"an extra charge":                  {charged: 4, used: 40, want: 40},
		"a refund of all":                  {charged: 4, used: 0, want: 0},
		"a refund of more than is charged": {charged: 9, used: 0, want: 0},
	} {
		f.slidingWindows(10, func(l counter.Limit, set counter.Set, at func(float64) time.Time) {
			f.take(set, at(0), 3)
			lease := f.take(set, at(5.9), 4)
			f.take(set, at(9), 2)
			f.settle(at(12), lease, at(5.9), counter.Charge{Key: l.Key, Window: l.Window, Charged: test.charged, Used: test.used})
			for _, step := range []struct{ sixteenths, want int64 }{{12, 5 + test.want}, {17, 2 + test.want}, {22, 2}, {26, 0}} {
				if got := f.peek(at(float64(step.sixteenths)), l)[0].Used; got != step.want {
					f.Errorf("%s of a %v leaves %d in sub-window %d, want %d", name, l.Window, got, step.sixteenths, step.want)
				}
			}
		})
	}
}

// settleSparesWhatIsNotCounted any more: a reservation dies with its sub-window.
func settleSparesWhatIsNotCounted(f *fixture) {
	for _, used := range []int64{0, 9} {
		f.slidingWindows(10, func(l counter.Limit, set counter.Set, at func(float64) time.Time) {
			lease := f.take(set, at(0.5), 4)
			charge := counter.Charge{Key: l.Key, Window: l.Window, Charged: 4, Used: used}
			f.settle(at(17), lease, at(0.5), charge)
			f.wantUsed(at(17).Add(-1), []counter.Limit{l}, 4)
			f.take(set, at(17), 5) // the counter has moved on
			f.settle(at(17).Add(-1), lease, at(0.5), charge)
			f.wantUsed(at(17), []counter.Limit{l}, 5)
		})
	}
}

// settleOfALostSlidingWindow is what happens after a restart: what is known to be used is counted as long as it would be.
func settleOfALostSlidingWindow(f *fixture) {
	for name, test := range map[string]struct {
		now        float64
		used, want int64
	}{
		"an extra charge":            {now: 16.9, used: 6, want: 2},
		"an extra charge, too late":  {now: 17, used: 6, want: 0},
		"a refund":                   {now: 1, used: 3, want: 0},
		"a settlement of the charge": {now: 1, used: 4, want: 0},
	} {
		f.slidingWindows(10, func(l counter.Limit, set counter.Set, at func(float64) time.Time) {
			f.settle(at(test.now), newLease(), at(0.5), counter.Charge{Key: l.Key, Window: l.Window, Charged: 4, Used: test.used})
			if got := f.peek(at(17).Add(-1), l)[0].Used; got != test.want {
				f.Errorf("%s for a lost %v leaves %d, want %d", name, l.Window, got, test.want)
			}
			f.wantUsed(at(17), []counter.Limit{l}, 0)
			f.take(set, at(17), 10)
		})
	}
}

func slidingCountsNeverOverflow(f *fixture) {
	f.slidingWindows(math.MaxInt64, func(l counter.Limit, set counter.Set, at func(float64) time.Time) {
		lease := f.take(set, at(0), 5)
		f.take(set, at(1), counter.MaxCount-5)
		f.refuse(set, at(2), 1)
		f.settle(at(2), lease, at(0), counter.Charge{Key: l.Key, Window: l.Window, Charged: math.MinInt64, Used: math.MaxInt64})
		f.wantUsed(at(2), []counter.Limit{l}, counter.MaxCount)
		f.wantUsed(at(17), []counter.Limit{l}, counter.MaxCount-5)
		f.take(set, at(17), 5)
	})
}
