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
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

func TestSlotsOutliveAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &troubled{Store: memory.New()}
		r := start(t.Context(), shared, 1)
		defer r.stop()
		l := limit(counter.InUse, 10)
		store := r.LocalShare()
		set := store.Open([]counter.Limit{l})
		end := func(lease counter.LeaseID) {
			s := counter.Settlement{Lease: lease, Taken: now(), Charges: []counter.Charge{{Key: l.Key, Window: l.Window}}}
			if err := store.Settle(t.Context(), now(), s); err != nil {
				t.Error(err)
			}
		}
		early, _ := take(t, set, 1)
		stays, _ := take(t, set, 1)
		pass(time.Second)
		shared.is(failing)
		if err := store.Renew(t.Context(), now(), stays, []counter.Key{l.Key}, now().Add(35*time.Second)); err != nil {
			t.Error(err)
		}
		short, _ := take(t, set, 1)
		take(t, set, 1)
		end(short)
		s := counter.Settlement{Lease: early, Taken: now().Add(-time.Second), Charges: []counter.Charge{{Key: l.Key, Window: l.Window}}}
		if err := store.Settle(t.Context(), now(), s); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]int64{2}, used(t, store, l)); diff != "" {
			t.Errorf("in the outage (-want +got):\n%s", diff)
		}
		shared.is(none)
		r.back()
		if diff := cmp.Diff([]int64{2}, used(t, shared, l)); diff != "" {
			t.Errorf("after the outage: one from before and one from within (-want +got):\n%s", diff)
		}
	})
}

// A speechless store takes what it is asked for, and fails.
type speechless struct {
	*troubled
}

type speechlessSet struct {
	counter.Set

	of *troubled
}

func (s *speechless) Open(limits []counter.Limit) counter.Set {
	return &speechlessSet{s.Store.Open(limits), s.troubled}
}

// Acquire implements counter.Set.
func (s *speechlessSet) Acquire(
	ctx context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (bool, error) {
	ok, err := s.Set.Acquire(ctx, now, lease, expiry, hits, counts)
	if s.of.Probe(ctx) != nil {
		return false, errFails
	}
	return ok, err
}

// TestASlotThatWasTakenWithoutAWordIsFreed, when the request that it was taken for ends in the outage.
func TestASlotThatWasTakenWithoutAWordIsFreed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &speechless{&troubled{Store: memory.New()}}
		r := start(t.Context(), shared, 1)
		defer r.stop()
		l := limit(counter.InUse, 10)
		store, taken := r.LocalShare(), now()
		shared.is(failing)
		lease, ok := take(t, store.Open([]counter.Limit{l}), 1)
		if held := used(t, shared.Store, l)[0]; !ok || held != 1 {
			t.Fatalf("admitted: %v, and the store holds %d slots", ok, held)
		}
		s := counter.Settlement{Lease: lease, Taken: taken, Charges: []counter.Charge{{Key: l.Key, Window: l.Window}}}
		if err := store.Settle(t.Context(), now(), s); err != nil {
			t.Error(err)
		}
		shared.is(none)
		r.back()
		if held := used(t, shared.Store, l)[0]; held != 0 {
			t.Errorf("%d slots are held by a request that has ended", held)
		}
	})
}

// TestARequestMayEndAtAnotherReplica: the one that it began at does not learn of that in an outage, and refuses nobody for it.
func TestARequestMayEndAtAnotherReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &troubled{Store: memory.New()}
		shared.is(failing)
		one, other := start(t.Context(), shared, 2), start(t.Context(), shared, 2)
		defer one.stop()
		defer other.stop()
		l := limit(counter.InUse, 2)
		set := one.LocalShare().Open([]counter.Limit{l})
		for range 10 {
			taken := now()
			lease, ok := take(t, set, 1)
			if !ok {
				t.Fatal("a request is refused, though those before it have ended")
			}
			s := counter.Settlement{Lease: lease, Taken: taken, Charges: []counter.Charge{{Key: l.Key, Window: l.Window}}}
			if err := other.LocalShare().Settle(t.Context(), now(), s); err != nil {
				t.Error(err)
			}
		}
		shared.is(none)
		one.back()
		other.back()
		if diff := cmp.Diff([]int64{0}, used(t, shared, l)); diff != "" {
			t.Errorf("slots that are held when all have ended (-want +got):\n%s", diff)
		}
	})
}

// TestWhatEndsInAnOutageIsSettled has a request of before the outage end in it, whose settlement the store was asked for or not.
func TestWhatEndsInAnOutageIsSettled(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		known bool // that the store is out
		want  int64
	}{
		"returned":                             {true, 30},
		"charged in full if it might be twice": {false, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				shared := &troubled{Store: memory.New()}
				r := start(t.Context(), shared, 1)
				defer r.stop()
				l := limit(counter.Day, 1000)
				store := r.LocalShare()
				taken := now()
				lease, _ := take(t, store.Open([]counter.Limit{l}), 100)
				pass(time.Second)
				shared.is(failing)
				if test.known {
					take(t, store.Open([]counter.Limit{limit(counter.Day, 1)}), 1)
				}
				s := counter.Settlement{Lease: lease, Taken: taken, Charges: []counter.Charge{{Key: l.Key, Window: l.Window, Charged: 100, Used: 30}}}
				if err := store.Settle(t.Context(), now(), s); err != nil {
					t.Error(err)
				}
				shared.is(none)
				r.back()
				if diff := cmp.Diff([]int64{test.want}, used(t, shared, l)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
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
		shared := &doubtful{&troubled{Store: memory.New()}, make(chan struct{})}
		r := start(t.Context(), shared, 1)
		defer r.stop()
		limits := []counter.Limit{limit(counter.Day, 1000), limit(counter.InUse, 10)}
		store, taken := r.LocalShare(), now()
		set := store.Open(limits)
		lease, _ := take(t, set, 100, 1)
		take(t, set, 100, 0)
		var ends sync.WaitGroup
		ends.Go(func() {
			s := counter.Settlement{Lease: lease, Taken: taken, Charges: []counter.Charge{
				{Key: limits[0].Key, Window: limits[0].Window, Charged: 100, Used: 30}, {Key: limits[1].Key, Window: limits[1].Window},
			}}
			if err := store.Settle(t.Context(), now(), s); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		shared.is(failing)
		take(t, set, 0, 0)
		shared.is(none)
		r.back()
		shared.fails <- struct{}{}
		close(shared.fails)
		ends.Wait()
		if diff := cmp.Diff([]int64{130, 0}, used(t, shared, limits...)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// A relapsing store is sound but for settlements.
type relapsing struct {
	*troubled

	settles atomic.Bool
}

// Settle implements counter.Store.
func (s *relapsing) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	if !s.settles.Load() {
		return errFails
	}
	return s.troubled.Settle(ctx, now, settlement)
}

// TestAStoreThatIsBackForAMomentCostsFewSettlements: those that it was not asked for are kept.
func TestAStoreThatIsBackForAMomentCostsFewSettlements(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const many = 1000
		shared := &relapsing{troubled: &troubled{Store: memory.New()}}
		r := start(t.Context(), shared, 1)
		defer r.stop()
		l := limit(counter.Day, 1<<20)
		store, taken := r.LocalShare(), now()
		set := store.Open([]counter.Limit{l})
		leases := make([]counter.LeaseID, many)
		for i := range leases {
			leases[i], _ = take(t, set, 100)
		}
		shared.is(failing)
		take(t, set, 0)
		for _, lease := range leases {
			s := counter.Settlement{Lease: lease, Taken: taken, Charges: []counter.Charge{{Key: l.Key, Window: l.Window, Charged: 100, Used: 30}}}
			if err := store.Settle(t.Context(), now(), s); err != nil {
				t.Error(err)
			}
		}
		shared.is(none)
		for r.Stats().Lost == 0 {
			pass(time.Millisecond)
		}
		shared.settles.Store(true)
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

// TestWhatIsKeptOfAnOutageIsBounded, and what ends of the rest is settled when the store is back.
func TestWhatIsKeptOfAnOutageIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const bound, more = 1 << 16, 100
		shared := &troubled{Store: memory.New()}
		shared.is(failing)
		r := start(t.Context(), shared, 1)
		defer r.stop()
		l := limit(counter.Day, 1<<30)
		store, taken := r.LocalShare(), now()
		set := store.Open([]counter.Limit{l})
		var last counter.LeaseID
		for range bound + more {
			last, _ = take(t, set, 2)
		}
		if n := r.Leases(); n != bound {
			t.Errorf("%d leases are kept, want %d", n, bound)
		}
		s := counter.Settlement{Lease: last, Taken: taken, Charges: []counter.Charge{{Key: l.Key, Window: l.Window, Charged: 2, Used: 1}}}
		if err := store.Settle(t.Context(), now(), s); err != nil {
			t.Error(err)
		}
		shared.is(none)
		r.back()
		if diff := cmp.Diff([]int64{2*(bound+more) - 1}, used(t, shared, l)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
