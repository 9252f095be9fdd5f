package outage_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/counter/outage"
)

// TestWhatIsSeenOfALimitHoldsForAllWhoShareIt, such as requests of one key for several models, and after every change of the table.
func TestWhatIsSeenOfALimitHoldsForAllWhoShareIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		day := limit(counter.Day, 500)
		one := r.open(day, limit(counter.Hour, 1000))
		other := r.open(day, limit(counter.Hour, 1000))
		for range 490 {
			take(t, one, 1, 1)
		}
		shared.is(failing)
		if _, ok := take(t, other, 11, 1); ok {
			t.Error("11 are admitted of a limit of which another has used all but 10")
		}
		if n := admitted(t, r.open(day), 20); n != 10 {
			t.Errorf("%d of 20 are admitted of a limit of which 10 remained before the table changed", n)
		}
	})
}

// TestWhatIsSeenIsForgottenOnceItIsLongOver, and seen anew by all who share the counter.
func TestWhatIsSeenIsForgottenOnceItIsLongOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		minute, day := limit(counter.Minute, 10), limit(counter.Day, 10)
		one, other := r.open(minute), r.open(minute)
		take(t, one, 1)
		take(t, other, 1)
		take(t, r.open(day), 1)
		pass(20 * time.Minute)
		r.Sweep(now())
		if n := r.Seen(); n != 1 {
			t.Errorf("%d counters are known after the window of one is over, want 1", n)
		}
		for range 4 {
			take(t, one, 1)
			take(t, other, 1)
		}
		shared.is(failing)
		if n := admitted(t, one, 20); n != 2 {
			t.Errorf("%d of 20 are admitted of a limit of which 2 remained", n)
		}
	})
}

// TestInAnOutageAReplicaTellsWhatItSaw, and nothing of what it never saw.
func TestInAnOutageAReplicaTellsWhatItSaw(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 2)
		store := r.LocalShare()
		seen, asked := limit(counter.Day, 100), limit(counter.Day, 100)
		take(t, r.open(seen), 40)
		take(t, r.open(asked), 40)
		shared.is(failing)
		take(t, r.open(asked), 3)
		wantUsed(t, "in the outage", []int64{40, 43, 0}, store, seen, asked, limit(counter.InUse, 1))
		if err := store.Peek(t.Context(), now(), []counter.Limit{limit(counter.Day, 1)}, make([]counter.Count, 1)); !errors.Is(err, counter.ErrOut) {
			t.Errorf("of what it never saw it tells %v, want ErrOut", err)
		}
	})
}

// TestAStoreThatRefusesLeavesNoLimitUnused: what a sliding window that refuses says of its reset is when there is room, not when it is empty.
func TestAStoreThatRefusesLeavesNoLimitUnused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		set := r.open(limit(counter.SlidingMinute, 10))
		take(t, set, 1)
		pass(55 * time.Second)
		if n := admitted(t, set, 20); n != 9 {
			t.Fatalf("%d are admitted of a limit of which 9 remain", n)
		}
		pass(10 * time.Second)
		shared.is(failing)
		if n := admitted(t, set, 20); n > 1 {
			t.Errorf("%d are admitted of a limit of which one remains", n)
		}
	})
}

// A forgetful store takes its time to restore, and restores what a counter holds less at the first call.
type forgetful struct {
	*troubled

	life     atomic.Pointer[life]
	restores atomic.Int64
}

// life is what a store holds since it was last empty.
type life struct {
	name     string
	counters *memory.Store
	restored sync.Map
}

func newForgetful() *forgetful {
	s := &forgetful{troubled: sound()}
	s.forget()
	return s
}

func (s *forgetful) forget() {
	s.life.Store(&life{name: fmt.Sprint(names.Add(1)), counters: memory.New()})
}

var _ outage.Shared = (*forgetful)(nil)

// Life implements outage.Shared.
func (s *forgetful) Life(ctx context.Context) (string, error) {
	return s.life.Load().name, s.Probe(ctx)
}

// Restore implements outage.Shared.
func (s *forgetful) Restore(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	l, lost := s.life.Load(), counter.Settlement{Taken: now}
	for i, c := range limits {
		if _, before := l.restored.LoadOrStore(c.Key, true); !before {
			s.restores.Add(1)
			var has [1]counter.Count
			if err := l.counters.Peek(ctx, now, limits[i:i+1], has[:]); err != nil {
				return err
			}
			lost.Charges = append(lost.Charges, counter.Charge{Key: c.Key, Window: c.Window, Charged: has[0].Used, Used: counts[i].Used})
		}
	}
	for range 100 {
		runtime.Gosched() // to all who ask meanwhile
	}
	return l.counters.Settle(ctx, now, lost)
}

// Peek implements counter.Store.
func (s *forgetful) Peek(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	return s.life.Load().counters.Peek(ctx, now, limits, counts)
}

// Settle implements counter.Store.
func (s *forgetful) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	return s.life.Load().counters.Settle(ctx, now, settlement)
}

// Open implements counter.Store.
func (s *forgetful) Open(limits []counter.Limit) counter.Set { return &forgetfulSet{s, limits} }

type forgetfulSet struct {
	of     *forgetful
	limits []counter.Limit
}

// Acquire implements counter.Set.
func (s *forgetfulSet) Acquire(
	ctx context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (bool, error) {
	if err := s.of.Probe(ctx); err != nil {
		return false, err
	}
	return s.of.life.Load().counters.Open(s.limits).Acquire(ctx, now, lease, expiry, hits, counts)
}

// TestNobodyIsAdmittedBeforeWhatWasForgottenIsRestored, however many ask at once for the counters, by whichever sets.
func TestNobodyIsAdmittedBeforeWhatWasForgottenIsRestored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := newForgetful()
		r := start(t, shared, 1)
		day := limit(counter.Day, 100)
		sets := [2]counter.Set{r.open(day, limit(counter.Hour, 1000)), r.open(day)}
		synctest.Wait() // until the life of the store is known
		for range 60 {
			take(t, sets[0], 1, 1)
		}
		shared.is(failing)
		take(t, sets[0], 0, 0)
		shared.forget()
		shared.recovers(r)
		var sum atomic.Int64
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				if _, ok := take(t, sets[i%2], []int64{1, 1}[i%2:]...); ok {
					sum.Add(1)
				}
			})
		}
		all.Wait()
		if diff := cmp.Diff(int64(40), sum.Load()); diff != "" {
			t.Errorf("after 60 of 100 are admitted (-want +got):\n%s", diff)
		}
		if n := shared.restores.Load(); n != 2 {
			t.Errorf("%d counters are restored, want each of the two once", n)
		}
	})
}

// TestWhatWasForgottenIsRestoredBeforeAnythingIsCharged: it would pass for a part of what there was.
func TestWhatWasForgottenIsRestoredBeforeAnythingIsCharged(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			shared := newForgetful()
			r := start(t, shared, replicas)
			day := limit(counter.Day, 100)
			set := r.open(day)
			synctest.Wait() // until the life of the store is known
			take(t, set, 60)
			shared.is(failing)
			take(t, set, 7)
			shared.forget()
			shared.recovers(r)
			wantUsed(t, fmt.Sprintf("with %d replicas", replicas), []int64{67}, shared, day)
		})
	}
}

// TestOneOutageAfterAnotherAdmitsNoMoreThanOne, whoever asks in them, though nobody asks in between.
func TestOneOutageAfterAnotherAdmitsNoMoreThanOne(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 2, 3} {
		synctest.Test(t, func(t *testing.T) {
			shared := sound()
			day := limit(counter.Day, 20)
			all, _ := startAll(t, shared, replicas)
			sum := 0
			for range 5 {
				shared.is(failing)
				for _, r := range all {
					sum += admitted(t, r.open(day), 30)
				}
				shared.recovers(all...)
			}
			if most := 20 + replicas - 1; sum < 20 || sum > most {
				t.Errorf("%d replicas admit %d of 20, want at most %d", replicas, sum, most)
			}
		})
	}
}

// TestWhatIsSeenIsWhatWasAnsweredLast, though each who asks does so once.
func TestWhatIsSeenIsWhatWasAnsweredLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		day := limit(counter.Day, 20)
		for range 20 {
			take(t, r.open(day), 1)
		}
		shared.is(failing)
		if n := admitted(t, r.open(day), 20); n != 0 {
			t.Errorf("%d are admitted of a limit of which nothing remained", n)
		}
	})
}

// A busy store is looked at while something else happens.
type busy struct {
	*troubled

	meanwhile func()
}

// Peek implements counter.Store.
func (s *busy) Peek(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	defer s.meanwhile()
	return s.troubled.Peek(ctx, now, limits, counts)
}

// TestWhatIsAdmittedAtTheVeryEndOfAnOutageIsSeenInTheNext, though the store was not told of it in between.
func TestWhatIsAdmittedAtTheVeryEndOfAnOutageIsSeenInTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &busy{troubled: sound()}
		r := start(t, shared, 1)
		day := limit(counter.Day, 20)
		set := r.open(day)
		shared.meanwhile = func() {
			admitted(t, set, 5)
			shared.is(failing)
		}
		shared.is(failing)
		admitted(t, set, 10)
		shared.recovers(r)
		if n := admitted(t, r.open(day), 20); n != 5 || r.Stats().Outages != 2 {
			t.Errorf("%d are admitted of a limit of which 5 remained, in outage %d", n, r.Stats().Outages)
		}
	})
}
