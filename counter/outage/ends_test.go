package outage_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// toMinute lets a bubble come to so long before a minute ends.
func toMinute(before time.Duration) {
	pass(now().Truncate(time.Minute).Add(time.Minute - before).Sub(now()))
}

// TestWhatIsCountedWhileTheStoreIsToldOfAnEarlierWindowIsTold has a window end while the store is told of it.
func TestWhatIsCountedWhileTheStoreIsToldOfAnEarlierWindowIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		l := limit(counter.Minute, 100)
		set := r.open(l)
		var told atomic.Bool
		shared.settles = func(counter.Settlement) error {
			if told.CompareAndSwap(false, true) {
				toMinute(0)
				wantUsed(t, "when the next window begins", []int64{0}, r.LocalShare(), l)
				take(t, set, 3)
			}
			return nil
		}
		toMinute(300 * time.Millisecond)
		shared.is(failing)
		take(t, set, 5)
		shared.recovers(r)
		pass(time.Second)
		wantUsed(t, "of 3 hits in the window after the outage", []int64{3}, shared, l)
	})
}

// TestWhoLookedAtTheClockBeforeAWindowEndedHidesNothingOfTheNext has one who is late be the first of his limits in an outage.
func TestWhoLookedAtTheClockBeforeAWindowEndedHidesNothingOfTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		l := limit(counter.Minute, 100)
		early, late := r.open(l), r.open(l)
		take(t, early, 90)
		toMinute(time.Millisecond)
		shared.is(failing)
		looked := now()
		toMinute(0)
		take(t, early, 2)
		if _, err := late.Acquire(t.Context(), looked, newLease(), looked.Add(time.Minute), []int64{1}, make([]counter.Count, 1)); err != nil {
			t.Fatal(err)
		}
		shared.recovers(r)
		pass(time.Second)
		wantUsed(t, "of 3 hits in the window that has begun", []int64{3}, shared, l)
	})
}
