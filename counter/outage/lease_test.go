package outage_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
)

func TestSlotsOutliveAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		l := limit(counter.InUse, 10)
		store, set := r.LocalShare(), r.open(l)
		early, _ := take(t, set, 1)
		stays, _ := take(t, set, 1)
		pass(time.Second)
		shared.is(failing)
		if err := store.Renew(t.Context(), now(), stays, []counter.Key{l.Key}, now().Add(35*time.Second)); err != nil {
			t.Error(err)
		}
		short, _ := take(t, set, 1)
		take(t, set, 1)
		r.settle(t, short, now(), charge(l, 0, 0))
		r.settle(t, early, now().Add(-time.Second), charge(l, 0, 0))
		wantUsed(t, "in the outage", []int64{2}, store, l)
		shared.recovers(r)
		wantUsed(t, "after the outage: one from before and one from within", []int64{2}, shared, l)
	})
}

// TestASlotThatWasTakenWithoutAWordIsFreed, when the request that it was taken for ends in the outage.
func TestASlotThatWasTakenWithoutAWordIsFreed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		l, taken := limit(counter.InUse, 10), now()
		shared.is(mute)
		lease, ok := take(t, r.open(l), 1)
		if held := used(t, shared.Store, l)[0]; !ok || held != 1 {
			t.Fatalf("admitted: %v, and the store holds %d slots", ok, held)
		}
		r.settle(t, lease, taken, charge(l, 0, 0))
		shared.recovers(r)
		wantUsed(t, "slots that are held by a request that has ended", []int64{0}, shared, l)
	})
}

// TestARequestMayEndAtAnotherReplica: the one that it began at does not learn of that in an outage, and refuses nobody for it.
func TestARequestMayEndAtAnotherReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := sound()
		shared.is(failing)
		one, other := start(t, shared, 2), start(t, shared, 2)
		l := limit(counter.InUse, 2)
		set := one.open(l)
		for range 10 {
			taken := now()
			lease, ok := take(t, set, 1)
			if !ok {
				t.Fatal("a request is refused, though those before it have ended")
			}
			other.settle(t, lease, taken, charge(l, 0, 0))
		}
		shared.recovers(one, other)
		wantUsed(t, "slots that are held when all have ended", []int64{0}, shared, l)
	})
}

// TestWhatEndsInAnOutageIsSettled has a request of before the outage end in it, whose settlement the store was asked for or not.
func TestWhatEndsInAnOutageIsSettled(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		known bool // that the store is out
		used  int64
		want  int64
	}{
		"returned":                              {true, 30, 30},
		"charged in full if it might be twice":  {false, 30, 100},
		"charged more":                          {true, 170, 170},
		"charged more though it might be twice": {false, 170, 170},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				shared, r := startOne(t, 1)
				l, taken := limit(counter.Day, 1000), now()
				lease, _ := take(t, r.open(l), 100)
				pass(time.Second)
				shared.is(failing)
				if test.known {
					take(t, r.open(limit(counter.Day, 1)), 1)
				}
				r.settle(t, lease, taken, charge(l, 100, test.used))
				shared.recovers(r)
				wantUsed(t, "in the end", []int64{test.want}, shared, l)
			})
		})
	}
}

// A doubtful store settles, and then waits until it may fail.
type doubtful struct {
	*troubled

	fails chan struct{}
}

// Settle implements counter.Store.
func (s *doubtful) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	err := s.troubled.Settle(ctx, now, settlement)
	if err != nil {
		return err
	}
	if _, more := <-s.fails; more {
		return errFails
	}
	return nil
}

// TestNothingIsReturnedTwice has a settlement fail that was carried out, after an outage that began and ended meanwhile.
func TestNothingIsReturnedTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &doubtful{sound(), make(chan struct{})}
		r := start(t, shared, 1)
		limits := []counter.Limit{limit(counter.Day, 1000), limit(counter.InUse, 10)}
		set, taken := r.open(limits...), now()
		lease, _ := take(t, set, 100, 1)
		take(t, set, 100, 0)
		var ends sync.WaitGroup
		ends.Go(func() { r.settle(t, lease, taken, charge(limits[0], 100, 30), charge(limits[1], 0, 0)) })
		synctest.Wait()
		shared.is(failing)
		take(t, set, 0, 0)
		shared.recovers(r)
		shared.fails <- struct{}{}
		close(shared.fails)
		ends.Wait()
		wantUsed(t, "in the end", []int64{130, 0}, shared, limits...)
	})
}

// TestAStoreThatIsBackForAMomentCostsFewSettlements: those that it was not asked for are kept.
func TestAStoreThatIsBackForAMomentCostsFewSettlements(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const many = 1000
		shared := sound()
		var settles atomic.Bool
		shared.settles = func(counter.Settlement) error {
			if !settles.Load() {
				return errFails
			}
			return nil
		}
		r := start(t, shared, 1)
		l, taken := limit(counter.Day, 1<<20), now()
		set := r.open(l)
		leases := make([]counter.LeaseID, many)
		for i := range leases {
			leases[i], _ = take(t, set, 100)
		}
		shared.is(failing)
		take(t, set, 0)
		for _, lease := range leases {
			r.settle(t, lease, taken, charge(l, 100, 30))
		}
		shared.is(none)
		for r.Stats().Lost == 0 {
			pass(time.Millisecond)
		}
		settles.Store(true)
		r.back()
		lost := int64(r.Stats().Lost) //nolint:gosec // They are few.
		if lost > 100 {
			t.Errorf("%d settlements of %d are lost", lost, many)
		}
		if diff := cmp.Diff([]int64{30*many + 70*lost}, used(t, shared, l)); diff != "" {
			t.Errorf("but for %d that are lost (-want +got):\n%s", lost, diff)
		}
	})
}

// TestWhatCanBeSettledAgainIs, when the store failed as it was told what ended in an outage.
func TestWhatCanBeSettledAgainIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		var fails atomic.Bool
		shared.settles = func(counter.Settlement) error {
			if fails.CompareAndSwap(true, false) {
				return errFails
			}
			return nil
		}
		day, slots, taken := limit(counter.Day, 1000), limit(counter.InUse, 10), now()
		lease, _ := take(t, r.open(day, slots), 100, 1)
		shared.is(failing)
		take(t, r.open(day), 0)
		r.settle(t, lease, taken, charge(day, 100, 170), charge(slots, 0, 0))
		fails.Store(true)
		shared.recovers(r)
		wantUsed(t, "in the end", []int64{170, 0}, shared, day, slots)
		if fails.Load() {
			t.Error("the store was told nothing")
		}
	})
}

// TestWhatIsKeptOfAnOutageIsBounded, and what ends of the rest is settled when the store is back.
func TestWhatIsKeptOfAnOutageIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const bound, more = 1 << 16, 100
		shared := sound()
		shared.is(failing)
		r := start(t, shared, 1)
		l, taken := limit(counter.Day, 1<<30), now()
		set := r.open(l)
		var last counter.LeaseID
		for range bound + more {
			last, _ = take(t, set, 2)
		}
		if n := r.Leases(); n != bound {
			t.Errorf("%d leases are kept, want %d", n, bound)
		}
		r.settle(t, last, taken, charge(l, 2, 1))
		shared.recovers(r)
		wantUsed(t, "in the end", []int64{2*(bound+more) - 1}, shared, l)
	})
}
