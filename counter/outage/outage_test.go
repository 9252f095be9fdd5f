package outage_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/countertest"
	"github.com/tierkeeper/tierkeeper/counter/outage"
	"github.com/tierkeeper/tierkeeper/internal/await"
)

func TestASoundStoreIsTheStore(t *testing.T) {
	t.Parallel()
	countertest.Run(t, func(t *testing.T) counter.Store {
		t.Helper()
		return startPatiently(t, sound(), 1).LocalShare()
	})
}

func TestSilenceIsWaitedForOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		set := r.open(limit(counter.Hour, 1000))
		shared.is(silent)
		began := now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { take(t, set, 1) })
		}
		wg.Wait()
		if took := now().Sub(began); took > outage.DefaultDeadline+outage.DefaultDeadline/2 {
			t.Errorf("a store that is silent keeps callers for %v, want the deadline of %v and a tick or two", took, outage.DefaultDeadline)
		}
		began = now()
		take(t, set, 1)
		if took := now().Sub(began); took != 0 {
			t.Errorf("a store that is known to be out keeps callers for %v, want not at all", took)
		}
		if got := (outage.Stats{Out: true, Outages: 1}); r.Stats() != got {
			t.Errorf("it tells %+v, want %+v", r.Stats(), got)
		}
		shared.recovers(r)
		take(t, set, 1)
	})
}

// TestWhatIsNotAskedForIsNoAnswer: a settlement that is right already goes well whatever becomes of the store.
func TestWhatIsNotAskedForIsNoAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 1)
		l, began := limit(counter.Hour, 1000), now()
		shared.is(silent)
		var waits sync.WaitGroup
		var took time.Duration
		waits.Go(func() {
			take(t, r.open(l), 1)
			took = now().Sub(began)
		})
		for range 200 {
			pass(time.Millisecond)
			r.settle(t, newLease(), began, charge(l, 1, 1))
		}
		waits.Wait()
		if took > outage.DefaultDeadline+outage.DefaultDeadline/2 {
			t.Errorf("a store that is silent keeps a caller for %v, want the deadline of %v and a tick or two", took, outage.DefaultDeadline)
		}
	})
}

// TestAProcessThatIsShortOfCPUWaitsLonger: it may not have heard an answer. But it does not wait for ever.
func TestAProcessThatIsShortOfCPUWaitsLonger(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		apart time.Duration // looks
		want  int           // that are made until the store is out
	}{
		"in time": {2500 * time.Microsecond, 5},
		"late":    {6 * time.Millisecond, 17},
	} {
		w := outage.NewSilence(2500 * time.Microsecond)
		at := time.Date(2026, time.May, 14, 12, 0, 0, 0, time.UTC)
		w.Lasts(at, false, true)
		looks := 1
		for at = at.Add(test.apart); !w.Lasts(at, true, false); at = at.Add(test.apart) {
			looks++
		}
		if looks != test.want {
			t.Errorf("%s: the store is out after %d looks, want %d", name, looks, test.want)
		}
		if w.Lasts(at.Add(test.apart), true, true) {
			t.Errorf("%s: it is out though it answers", name)
		}
	}
}

// TestAProcessThatStoodStillHasNotListened: what the store has answered meanwhile is read after it goes on.
func TestAProcessThatStoodStillHasNotListened(t *testing.T) {
	t.Parallel()
	const every = 2500 * time.Microsecond
	w := outage.NewSilence(every)
	at := time.Date(2026, time.May, 14, 12, 0, 0, 0, time.UTC)
	w.Lasts(at, true, true)
	at = at.Add(time.Minute)
	if w.Lasts(at, true, false) {
		t.Error("a store is out that was not listened to")
	}
	if w.Lasts(at.Add(every), true, true) {
		t.Error("a store is out though it is heard")
	}
}

// slow is a store that answers who asks for two hits when late is closed.
func slow(late chan struct{}) *troubled {
	shared := sound()
	shared.acquires = func(ctx context.Context, _ []counter.Limit, hits []int64) error {
		if hits[0] != 2 {
			return nil
		}
		select {
		case <-late:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return shared
}

func TestASlowAnswerAmongOthersIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		late := make(chan struct{})
		r := start(t, slow(late), 1)
		set := r.open(limit(counter.Hour, 1000))
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, ok := take(t, set, 2); !ok {
				t.Error("it is refused, want it admitted")
			}
		}()
		for range 12 {
			take(t, set, 1)
			pass(outage.DefaultDeadline / 3)
		}
		close(late)
		<-done
		if s := r.Stats(); s.Outages != 0 {
			t.Errorf("it was out %d times, want never: others were answered meanwhile", s.Outages)
		}
	})
}

// TestACallThatHangsAmongOthersIsGivenUp, such as one at a node of a cluster that is silent.
func TestACallThatHangsAmongOthersIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, slow(make(chan struct{})), 1)
		set := r.open(limit(counter.Hour, 1000))
		began, done := now(), make(chan time.Duration, 1)
		go func() {
			take(t, set, 2)
			done <- now().Sub(began)
		}()
		for len(done) == 0 {
			take(t, set, 1)
			pass(outage.DefaultDeadline / 3)
		}
		if took := <-done; took > 11*outage.DefaultDeadline {
			t.Errorf("a call that is not answered is waited for for %v, want 10 deadlines at most", took)
		}
	})
}

func TestWhatAGatewayWantsOfAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, r := startOne(t, 4)
		limits := []counter.Limit{limit(counter.Hour, 100)}
		share, allow, deny := r.open(limits...), r.Allow().Open(limits), r.Deny().Open(limits)
		if n := admitted(t, share, 20); n != 20 {
			t.Fatalf("%d of 20 are admitted before the outage", n)
		}
		shared.is(failing)
		if n := admitted(t, share, 100); n != 20 {
			t.Errorf("the share admits %d, want 20: a quarter of what remained", n)
		}
		if n := admitted(t, allow, 300); n != 300 {
			t.Errorf("of 300 that are allowed %d are admitted", n)
		}
		_, err := deny.Acquire(t.Context(), now(), newLease(), now().Add(time.Second), []int64{1}, make([]counter.Count, 1))
		if !errors.Is(err, counter.ErrOut) {
			t.Errorf("the answer where it is denied is %v, want ErrOut", err)
		}
		shared.recovers(r)
		wantUsed(t, "the store does not know what was counted without it", []int64{340}, shared, limits...)
	})
}

// TestADenialInAnOutageNamesItsLimit shows that counts tell which limit refused, as Acquire promises.
func TestADenialInAnOutageNamesItsLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		shared := sound()
		shared.is(failing)
		r := start(t, shared, rapid.IntRange(1, 5).Draw(rt, "replicas"))
		defer r.stop() // before the next of many
		limits := make([]counter.Limit, rapid.IntRange(1, 4).Draw(rt, "limits"))
		for i := range limits {
			limits[i] = limit(rapid.SampledFrom([]counter.Window{counter.Day, counter.InUse, counter.SlidingHour}).Draw(rt, "window"), rapid.Int64Range(-1, 20).Draw(rt, "max"))
		}
		set := r.open(limits...)
		at := now()
		for range 30 {
			hits, counts := make([]int64, len(limits)), make([]counter.Count, len(limits))
			for i := range hits {
				hits[i] = rapid.Int64Range(0, 1).Draw(rt, "hit")
			}
			ok, err := set.Acquire(t.Context(), at, newLease(), at.Add(time.Minute), hits, counts)
			if err != nil {
				rt.Fatal(err)
			}
			refused := false
			for i, l := range limits {
				hit := hits[i]
				if ok {
					hit = 0
				}
				refused = refused || !l.Fits(counts[i].Used, hit)
			}
			if ok == refused {
				rt.Fatalf("admitted: %v, and by the counts %v of %v a limit refuses %v: %v", ok, counts, limits, hits, refused)
			}
		}
	})
}

// TestNothingIsLostWhileOutagesComeAndGo has many take at once while a store fails and comes back: as its calls fail before they
// do anything, it knows of everything in the end.
func TestNothingIsLostWhileOutagesComeAndGo(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, time.May, 14, 12, 0, 0, 0, time.UTC)
	shared := sound()
	r := startWith(t, shared, outage.Options{Deadline: patient, Replicas: func() int { return 1 }, Clock: func() time.Time { return noon }})
	limits := []counter.Limit{limit(counter.Month, 1<<40), limit(counter.SlidingHour, 1<<40)}
	set := r.open(limits...)
	var sum atomic.Int64
	try := func() {
		ok, err := set.Acquire(t.Context(), noon, newLease(), noon.Add(time.Minute), []int64{1, 1}, make([]counter.Count, 2))
		if err != nil {
			t.Error(err)
		}
		if ok {
			sum.Add(1)
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					try()
				}
			}
		})
	}
	for range 20 {
		before := r.Stats().Outages
		for shared.is(failing); r.Stats().Outages == before; {
			try()
		}
		for shared.is(none); r.Stats().Out; {
			try()
		}
	}
	close(stop)
	wg.Wait()
	await.True(t, 30*time.Second, "the store knows all that was admitted", func() bool {
		counts := make([]counter.Count, 2)
		if err := shared.Peek(t.Context(), noon, limits, counts); err != nil {
			t.Fatal(err)
		}
		return counts[0].Used == sum.Load() && counts[1].Used == sum.Load()
	})
}
