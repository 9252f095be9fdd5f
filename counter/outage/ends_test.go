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
