package outage_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// spoiled is a store that cannot read what it has of one counter: the one that bad names.
func spoiled() (shared *troubled, bad *atomic.Pointer[counter.Key]) {
	shared, bad = sound(), new(atomic.Pointer[counter.Key])
	read := func(key counter.Key) error {
		if k := bad.Load(); k != nil && *k == key {
			return counter.ErrUnreadable
		}
		return nil
	}
	shared.acquires = func(_ context.Context, limits []counter.Limit, _ []int64) (err error) {
		for _, l := range limits {
			err = errors.Join(err, read(l.Key))
		}
		return err
	}
	shared.settles = func(s counter.Settlement) (err error) {
		for _, c := range s.Charges {
			err = errors.Join(err, read(c.Key))
		}
		return err
	}
	return shared, bad
}

// TestACounterThatCannotBeReadIsNoOutage has those who need it do as in an outage, and nobody else.
func TestACounterThatCannotBeReadIsNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, bad := spoiled()
		r := start(t, shared, 2)
		limits := []counter.Limit{limit(counter.Day, 100), limit(counter.Day, 1000)}
		share, allow, deny := r.open(limits...), r.Allow().Open(limits), r.Deny().Open(limits)
		other := r.open(limit(counter.Day, 100))
		bad.Store(&limits[0].Key)
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
		if n := admitted(t, other, 200); n != 100 || r.Stats().Outages != 0 {
			t.Errorf("of another limit, of 100, %d are admitted, in %d outages", n, r.Stats().Outages)
		}
		pass(3 * time.Second)
		wantUsed(t, "of the limit beside it, meanwhile", []int64{51}, shared, limits[1])
		r.settle(t, lease, taken, charge(limits[0], 10, 3), charge(limits[1], 10, 3))
		bad.Store(nil)
		pass(3 * time.Second)
		take(t, share, 1, 1)
		wantUsed(t, "when it can be read again", []int64{45, 45}, shared, limits...)
	})
}

// TestAnOutageEndsThoughACounterCannotBeRead: what was taken from the others is charged.
func TestAnOutageEndsThoughACounterCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			shared, bad := spoiled()
			r := start(t, shared, replicas)
			shared.is(failing)
			limits := make([]counter.Limit, 2*counter.MaxLimits)
			want := make([]int64, len(limits))
			for i := range limits {
				limits[i], want[i] = limit(counter.Day, 100), 5
				if n := admitted(t, r.LocalShare().Open(limits[i:i+1]), 5); n != 5 {
					t.Fatalf("%d are admitted, want 5", n)
				}
			}
			bad.Store(&limits[7].Key)
			want[7] = 0
			shared.recovers(r)
			wantUsed(t, fmt.Sprintf("with %d replicas", replicas), want, shared, limits...)
		})
	}
}
