package outage_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

// A spoiled store cannot read what it has of one counter.
type spoiled struct {
	*troubled

	bad atomic.Pointer[counter.Key]
}

func (s *spoiled) has(key counter.Key) error {
	if bad := s.bad.Load(); bad != nil && *bad == key {
		return counter.ErrUnreadable
	}
	return nil
}

// Open implements counter.Store.
func (s *spoiled) Open(limits []counter.Limit) counter.Set {
	return &spoiledSet{s.troubled.Open(limits), s, limits}
}

type spoiledSet struct {
	counter.Set

	of     *spoiled
	limits []counter.Limit
}

// Acquire implements counter.Set.
func (s *spoiledSet) Acquire(
	ctx context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (bool, error) {
	if slices.ContainsFunc(s.limits, func(l counter.Limit) bool { return s.of.has(l.Key) != nil }) {
		return false, counter.ErrUnreadable
	}
	return s.Set.Acquire(ctx, now, lease, expiry, hits, counts)
}

// Settle implements counter.Store.
func (s *spoiled) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	if slices.ContainsFunc(settlement.Charges, func(c counter.Charge) bool { return s.has(c.Key) != nil }) {
		return counter.ErrUnreadable
	}
	return s.troubled.Settle(ctx, now, settlement)
}

// TestACounterThatCannotBeReadIsNoOutage has those who need it do as in an outage, and nobody else.
func TestACounterThatCannotBeReadIsNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &spoiled{troubled: &troubled{Store: memory.New()}}
		r := start(t.Context(), shared, 2)
		defer r.stop()
		limits := []counter.Limit{limit(counter.Day, 100), limit(counter.Day, 1000)}
		share, allow, deny := r.LocalShare().Open(limits), r.Allow().Open(limits), r.Deny().Open(limits)
		sound := r.LocalShare().Open([]counter.Limit{limit(counter.Day, 100)})
		shared.bad.Store(&limits[0].Key)
		taken := now()
		lease, _ := take(t, share, 10, 10)
		sum := int64(0)
		for range 100 {
			if _, ok := take(t, share, 1, 1); ok {
				sum++
			}
		}
		if sum != 40 {
			t.Errorf("%d are admitted by a part of 50, of which 10 were taken", sum)
		}
		if _, ok := take(t, allow, 1, 1); !ok {
			t.Error("a request is refused that is allowed whatever the store does")
		}
		if _, err := deny.Acquire(t.Context(), now(), newLease(), now().Add(time.Second), []int64{1, 1}, make([]counter.Count, 2)); !errors.Is(err, counter.ErrOut) {
			t.Errorf("the answer where it is denied is %v, want ErrOut", err)
		}
		if n := admitted(t, sound, 200); n != 100 || r.Stats().Outages != 0 {
			t.Errorf("of another limit, of 100, %d are admitted, in %d outages", n, r.Stats().Outages)
		}
		pass(3 * time.Second)
		if diff := cmp.Diff([]int64{51}, used(t, shared, limits[1])); diff != "" {
			t.Errorf("of the limit beside it, meanwhile (-want +got):\n%s", diff)
		}
		s := counter.Settlement{Lease: lease, Taken: taken, Charges: []counter.Charge{
			{Key: limits[0].Key, Window: counter.Day, Charged: 10, Used: 3}, {Key: limits[1].Key, Window: counter.Day, Charged: 10, Used: 3},
		}}
		if err := r.LocalShare().Settle(t.Context(), now(), s); err != nil {
			t.Error(err)
		}
		shared.bad.Store(nil)
		pass(3 * time.Second)
		take(t, share, 1, 1)
		if diff := cmp.Diff([]int64{45, 45}, used(t, shared, limits...)); diff != "" {
			t.Errorf("when it can be read again (-want +got):\n%s", diff)
		}
	})
}

// TestAnOutageEndsThoughACounterCannotBeRead: what was taken from the others is charged.
func TestAnOutageEndsThoughACounterCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			shared := &spoiled{troubled: &troubled{Store: memory.New()}}
			r := start(t.Context(), shared, replicas)
			defer r.stop()
			shared.is(failing)
			limits := make([]counter.Limit, 2*counter.MaxLimits)
			want := make([]int64, len(limits))
			for i := range limits {
				limits[i], want[i] = limit(counter.Day, 100), 5
				if n := admitted(t, r.LocalShare().Open(limits[i:i+1]), 5); n != 5 {
					t.Fatalf("%d are admitted, want 5", n)
				}
			}
			shared.bad.Store(&limits[7].Key)
			want[7] = 0
			shared.is(none)
			r.back()
			if diff := cmp.Diff(want, used(t, shared, limits...)); diff != "" {
				t.Errorf("with %d replicas (-want +got):\n%s", replicas, diff)
			}
		})
	}
}
