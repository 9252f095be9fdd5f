package countertest

import (
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
)

// ends are moments at which a window begins and the one before it ends, in the order of time: a store may forget what
// was long ago.
var ends = []struct {
	window counter.Window
	end    time.Time
}{
	{counter.Day, time.Date(2024, time.March, 1, 0, 0, 0, 0, time.UTC)},
	{counter.Month, time.Date(2024, time.March, 1, 0, 0, 0, 0, time.UTC)},
	{counter.Second, time.Date(2024, time.May, 1, 10, 0, 1, 0, time.UTC)},
	{counter.Minute, time.Date(2024, time.May, 1, 10, 1, 0, 0, time.UTC)},
	{counter.Hour, time.Date(2024, time.May, 1, 11, 0, 0, 0, time.UTC)},
	{counter.Day, time.Date(2024, time.May, 2, 0, 0, 0, 0, time.UTC)},
	{counter.Month, time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)},
}

// windowsFollowTheCalendar in UTC, wherever the clock that now was read from stands.
func windowsFollowTheCalendar(f *fixture) {
	farEast := time.FixedZone("UTC+13:45", 13*60*60+45*60)
	for _, e := range ends {
		set := f.store.Open([]counter.Limit{f.limit(e.window, 2)})
		f.take(set, e.end.Add(-2), 1)
		f.take(set, e.end.Add(-1).In(farEast), 1)
		f.refuse(set, e.end.Add(-1), 1)

		_, ok, counts := f.acquire(set, e.end.In(farEast), 2)
		_, next := e.window.Bounds(e.end)
		if diff := cmp.Diff([]counter.Count{{Used: 2, Reset: next}}, counts); !ok || diff != "" {
			f.Errorf("a %v begins at %v: ok %v, counts (-want +got):\n%s", e.window, e.end, ok, diff)
		}
	}
}

// windowsOnlyMoveForward although two goroutines may reach the store in another order than they read the clock in.
func windowsOnlyMoveForward(f *fixture) {
	for _, e := range ends {
		l, window, end := f.limit(e.window, 2), e.window, e.end
		set := f.store.Open([]counter.Limit{l})
		f.take(set, end.Add(-1), 2)
		f.take(set, end, 1)

		_, ok, counts := f.acquire(set, end.Add(-1), 1)
		_, next := window.Bounds(end)
		if diff := cmp.Diff([]counter.Count{{Used: 2, Reset: next}}, counts); !ok || diff != "" {
			f.Errorf("a hit before the current %v: ok %v, counts (-want +got):\n%s", window, ok, diff)
		}
		f.refuse(set, end.Add(-1), 1)
		f.refuse(set, end, 1)
		f.wantUsed(end.Add(-1), []counter.Limit{l}, 2)
	}
}

// aRefusalMovesNoWindow because it changes nothing.
func aRefusalMovesNoWindow(f *fixture) {
	l, never := f.limit(counter.Minute, 2), f.limit(counter.Minute, 0)
	f.take(f.store.Open([]counter.Limit{l}), noon, 2)
	f.refuse(f.store.Open([]counter.Limit{l, never}), noon.Add(time.Minute), 1, 1)
	f.take(f.store.Open([]counter.Limit{l}), noon.Add(time.Minute), 0)
	f.wantUsed(noon, []counter.Limit{l}, 2)
}

func settleCorrectsTheWindow(f *fixture) {
	for name, test := range map[string]struct{ charged, used, want int64 }{
		"a refund":                      {charged: 4, used: 1, want: 1 + 3},
		"nothing to correct":            {charged: 4, used: 4, want: 1 + 6},
		"an extra charge":               {charged: 4, used: 6, want: 1 + 8},
		"more than the limit":           {charged: 4, used: 40, want: 1 + 42},
		"a refund of more than is used": {charged: 400, used: 1, want: 0},
		"negative numbers":              {charged: -4, used: -40, want: 1 + 6},
	} {
		for w := counter.Second; w.Valid(); w++ {
			if w == counter.InUse {
				continue
			}
			l := f.limit(w, 10)
			set := f.store.Open([]counter.Limit{l})
			f.take(set, noon, 3)
			lease := f.take(set, noon, 4)
			f.settle(noon.Add(10*time.Millisecond), lease, noon,
				counter.Charge{Key: l.Key, Window: w, Charged: test.charged, Used: test.used})
			if got := f.peek(noon, l)[0].Used; got != test.want {
				f.Errorf("%s of a %v leaves %d, want %d", name, w, got, test.want)
			}
		}
	}
}

// settleSparesALaterWindow because a reservation dies with the window that it was taken from.
func settleSparesALaterWindow(f *fixture) {
	for _, e := range ends {
		for _, used := range []int64{0, 9} {
			l, before := f.limit(e.window, 10), e.end.Add(-1)
			set := f.store.Open([]counter.Limit{l})
			lease := f.take(set, before, 4)
			charge := counter.Charge{Key: l.Key, Window: l.Window, Charged: 4, Used: used}
			f.settle(e.end, lease, before, charge) // the window has ended
			f.wantUsed(before, []counter.Limit{l}, 4)
			f.take(set, e.end, 5)
			for _, now := range []time.Time{before, e.end} { // the counter has moved on
				f.settle(now, lease, before, charge)
				f.wantUsed(now, []counter.Limit{l}, 5)
			}
		}
	}
}

// settleOfALostCounter is what happens after a restart: what is known to be used is counted while its window runs.
func settleOfALostCounter(f *fixture) {
	for _, e := range ends {
		window, end, taken := e.window, e.end, e.end.Add(-time.Millisecond)
		for name, test := range map[string]struct {
			now                 time.Time
			charged, used, want int64
		}{
			"an extra charge":            {now: taken, charged: 4, used: 6, want: 2},
			"an extra charge, too late":  {now: end, charged: 4, used: 6, want: 0},
			"a refund":                   {now: taken, charged: 4, used: 3, want: 0},
			"a settlement of the charge": {now: taken, charged: 4, used: 4, want: 0},
		} {
			l := f.limit(window, 10)
			f.settle(test.now, newLease(), taken, counter.Charge{Key: l.Key, Window: window, Charged: test.charged, Used: test.used})
			if got := f.peek(taken, l)[0].Used; got != test.want {
				f.Errorf("%s for a lost counter per %v leaves %d, want %d", name, window, got, test.want)
			}
		}
	}
}
