package outage_test

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/tierkeeper/tierkeeper/counter"
)

// TestAStoreThatReturnsNothingIsAskedAgain, where it says that it has done nothing. Otherwise it might return twice.
func TestAStoreThatReturnsNothingIsAskedAgain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		why   error
		times int64
		want  []int64
	}{
		{fmt.Errorf("%w: OOM command not allowed", counter.ErrNotDone), 5, []int64{3, 4}},
		{errors.New("connection reset by peer"), 1, []int64{50, 4}},
	} {
		synctest.Test(t, func(t *testing.T) {
			shared := sound()
			var times atomic.Int64
			shared.settles = func(s counter.Settlement) error {
				returns := slices.ContainsFunc(s.Charges, func(c counter.Charge) bool { return c.Excess() < 0 })
				if returns && times.Add(-1) >= 0 {
					return test.why
				}
				return nil
			}
			r := start(t, shared, 2)
			month, other := limit(counter.Month, 100), limit(counter.Month, 100)
			taken := now()
			lease, _ := take(t, r.open(other), 10)
			shared.is(failing)
			take(t, r.open(month), 3)
			r.settle(t, lease, taken, charge(other, 10, 4))
			times.Store(test.times)
			shared.recovers(r)
			wantUsed(t, fmt.Sprintf("what is charged after %q", test.why), test.want, shared, month, other)
		})
	}
}

// TestARefundThatTheStoreRefusesIsMadeWhenItIsBack, though that is how the outage began.
func TestARefundThatTheStoreRefusesIsMadeWhenItIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		var refused atomic.Bool
		shared.settles = func(counter.Settlement) error {
			if refused.CompareAndSwap(false, true) {
				return counter.ErrNotDone
			}
			return nil
		}
		l, taken := limit(counter.Day, 1000), now()
		lease, _ := take(t, r.open(l), 100)
		r.settle(t, lease, taken, charge(l, 100, 30))
		shared.recovers(r)
		wantUsed(t, "in the end", []int64{30}, shared, l)
	})
}
