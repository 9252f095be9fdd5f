package outage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

// A grudging store returns nothing for some times.
type grudging struct {
	*troubled

	why   error
	times atomic.Int64
}

// Settle implements counter.Store.
func (s *grudging) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	returns := slices.ContainsFunc(settlement.Charges, func(c counter.Charge) bool { return c.Excess() < 0 })
	if returns && s.times.Add(-1) >= 0 {
		return s.why
	}
	return s.troubled.Settle(ctx, now, settlement)
}

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
			shared := &grudging{troubled: &troubled{Store: memory.New()}, why: test.why}
			r := start(t.Context(), shared, 2)
			defer r.stop()
			month, other := limit(counter.Month, 100), limit(counter.Month, 100)
			taken := now()
			lease, _ := take(t, r.LocalShare().Open([]counter.Limit{other}), 10)
			shared.is(failing)
			take(t, r.LocalShare().Open([]counter.Limit{month}), 3)
			before := counter.Settlement{Lease: lease, Taken: taken, Charges: []counter.Charge{{Key: other.Key, Window: counter.Month, Charged: 10, Used: 4}}}
			if err := r.LocalShare().Settle(t.Context(), now(), before); err != nil {
				t.Fatal(err)
			}
			shared.times.Store(test.times)
			shared.is(none)
			r.back()
			if diff := cmp.Diff(test.want, used(t, shared, month, other)); diff != "" {
				t.Errorf("what is charged after %q (-want +got):\n%s", test.why, diff)
			}
		})
	}
}
