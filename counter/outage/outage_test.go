package outage_test

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/countertest"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/counter/outage"
	"github.com/tierkeeper/tierkeeper/internal/await"
)

// now is the time of the bubble that a test runs in.
func now() time.Time { return time.Now() } //nolint:forbidigo // See above.

func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // In a bubble, where it takes no time.

// How a store is out.
type trouble int32

const (
	none    trouble = iota
	silent          // it answers nothing, and does nothing
	failing         // it answers with an error, and does nothing
)

var errFails = errors.New("OOM command not allowed")

// A troubled store is in memory, and out when it is told to be. Replicas share it.
type troubled struct {
	*memory.Store

	trouble atomic.Int32
}

type troubledSet struct {
	counter.Set

	of *troubled
}

func (s *troubled) is(t trouble) { s.trouble.Store(int32(t)) }

// Probe implements outage.Shared.
func (s *troubled) Probe(ctx context.Context) error {
	switch trouble(s.trouble.Load()) {
	case silent:
		<-ctx.Done()
		return ctx.Err()
	case failing:
		return errFails
	default:
		return nil
	}
}

// Life implements outage.Shared. It forgets nothing.
func (s *troubled) Life(ctx context.Context) (string, error) { return "one", s.Probe(ctx) }

// Restore implements outage.Shared.
func (s *troubled) Restore(context.Context, time.Time, []counter.Limit, []counter.Count) error {
	return errors.New("nothing was forgotten")
}

func (s *troubled) Open(limits []counter.Limit) counter.Set {
	return &troubledSet{s.Store.Open(limits), s}
}

func (s *troubledSet) Acquire(
	ctx context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (bool, error) {
	if err := s.of.Probe(ctx); err != nil {
		return false, err
	}
	return s.Set.Acquire(ctx, now, lease, expiry, hits, counts)
}

// Settle implements counter.Store. The store is not asked for nothing.
func (s *troubled) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	if !slices.ContainsFunc(settlement.Charges, func(c counter.Charge) bool { return c.Matters(settlement.Taken, now) }) {
		return nil
	}
	if err := s.Probe(ctx); err != nil {
		return err
	}
	return s.Store.Settle(ctx, now, settlement)
}

func (s *troubled) Renew(ctx context.Context, now time.Time, lease counter.LeaseID, keys []counter.Key, expiry time.Time) error {
	if err := s.Probe(ctx); err != nil {
		return err
	}
	return s.Store.Renew(ctx, now, lease, keys, expiry)
}

func (s *troubled) Peek(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	if err := s.Probe(ctx); err != nil {
		return err
	}
	return s.Store.Peek(ctx, now, limits, counts)
}

// A replica is one process of several that share a store.
type replica struct {
	*outage.Store

	stop context.CancelFunc
}

// start starts a replica. Within a bubble it must be stopped before the end.
func start(ctx context.Context, shared outage.Shared, replicas int) *replica {
	return startWith(ctx, shared, outage.Options{Replicas: func() int { return replicas }, Clock: now})
}

// patient is a deadline for tests outside of a bubble, where a busy machine could look like a store that is silent.
const patient = time.Minute

func startWith(ctx context.Context, shared outage.Shared, o outage.Options) *replica {
	ctx, cancel := context.WithCancel(ctx)
	o.Log = slog.New(slog.DiscardHandler)
	s := outage.New(ctx, shared, o)
	go s.Run(ctx)
	return &replica{s, cancel}
}

func TestASoundStoreIsTheStore(t *testing.T) {
	t.Parallel()
	countertest.Run(t, func(t *testing.T) counter.Store {
		t.Helper()
		r := startWith(t.Context(), &troubled{Store: memory.New()}, outage.Options{Deadline: patient, Replicas: func() int { return 1 }, Clock: now})
		t.Cleanup(r.stop)
		return r.LocalShare()
	})
}

var names atomic.Uint64

func newLease() (l counter.LeaseID) {
	binary.BigEndian.PutUint64(l[:], names.Add(1))
	return l
}

func limit(w counter.Window, most int64) counter.Limit {
	l := counter.Limit{Window: w, Max: most}
	binary.BigEndian.PutUint64(l.Key[:], names.Add(1))
	return l
}

// take asks for one hit of each limit of a set, and returns the lease if it was admitted.
func take(t testing.TB, set counter.Set, hits ...int64) (counter.LeaseID, bool) {
	t.Helper()
	lease, at := newLease(), now()
	ok, err := set.Acquire(t.Context(), at, lease, at.Add(30*time.Second), hits, make([]counter.Count, len(hits)))
	if err != nil {
		t.Fatal(err)
	}
	return lease, ok
}

// admitted is how many of n tries of one hit are.
func admitted(t testing.TB, set counter.Set, n int) (sum int) {
	t.Helper()
	for range n {
		if _, ok := take(t, set, 1); ok {
			sum++
		}
	}
	return sum
}

func used(t testing.TB, s counter.Store, limits ...counter.Limit) []int64 {
	t.Helper()
	counts, out := make([]counter.Count, len(limits)), make([]int64, len(limits))
	if err := s.Peek(t.Context(), now(), limits, counts); err != nil {
		t.Fatal(err)
	}
	for i, c := range counts {
		out[i] = c.Used
	}
	return out
}

// back waits until a store that is sound again is asked again.
func (r *replica) back() {
	for r.Stats().Out {
		pass(time.Millisecond)
	}
}

func TestSilenceIsWaitedForOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &troubled{Store: memory.New()}
		r := start(t.Context(), shared, 1)
		defer r.stop()
		set := r.LocalShare().Open([]counter.Limit{limit(counter.Hour, 1000)})
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
		shared.is(none)
		r.back()
		take(t, set, 1)
	})
}

// TestWhatIsNotAskedForIsNoAnswer: a settlement that is right already goes well whatever becomes of the store.
func TestWhatIsNotAskedForIsNoAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &troubled{Store: memory.New()}
		r := start(t.Context(), shared, 1)
		defer r.stop()
		l, store, began := limit(counter.Hour, 1000), r.LocalShare(), now()
		right := counter.Settlement{Taken: began, Charges: []counter.Charge{{Key: l.Key, Window: l.Window, Charged: 1, Used: 1}}}
		shared.is(silent)
		var waits sync.WaitGroup
		var took time.Duration
		waits.Go(func() {
			take(t, store.Open([]counter.Limit{l}), 1)
			took = now().Sub(began)
		})
		for range 200 {
			pass(time.Millisecond)
			if err := store.Settle(t.Context(), now(), right); err != nil {
				t.Error(err)
			}
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

// slowSet answers one call late.
type slowSet struct {
	counter.Set

	late chan struct{}
}

func (s *slowSet) Acquire(
	ctx context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (bool, error) {
	if hits[0] == 2 {
		select {
		case <-s.late:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	return s.Set.Acquire(ctx, now, lease, expiry, hits, counts)
}

type slowStore struct {
	*troubled

	late chan struct{}
}

func (s *slowStore) Open(limits []counter.Limit) counter.Set {
	return &slowSet{s.troubled.Open(limits), s.late}
}

func TestASlowAnswerAmongOthersIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		late := make(chan struct{})
		r := start(t.Context(), &slowStore{&troubled{Store: memory.New()}, late}, 1)
		defer r.stop()
		set := r.LocalShare().Open([]counter.Limit{limit(counter.Hour, 1000)})
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
		r := start(t.Context(), &slowStore{&troubled{Store: memory.New()}, make(chan struct{})}, 1)
		defer r.stop()
		set := r.LocalShare().Open([]counter.Limit{limit(counter.Hour, 1000)})
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
		shared := &troubled{Store: memory.New()}
		r := start(t.Context(), shared, 4)
		defer r.stop()
		limits := []counter.Limit{limit(counter.Hour, 100)}
		share, allow, deny := r.LocalShare().Open(limits), r.Allow().Open(limits), r.Deny().Open(limits)
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
		shared.is(none)
		r.back()
		if diff := cmp.Diff([]int64{340}, used(t, shared, limits...)); diff != "" {
			t.Errorf("the store does not know what was counted without it (-want +got):\n%s", diff)
		}
	})
}

// TestADenialInAnOutageNamesItsLimit shows that counts tell which limit refused, as Acquire promises.
func TestADenialInAnOutageNamesItsLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		shared := &troubled{Store: memory.New()}
		shared.is(failing)
		r := start(t.Context(), shared, rapid.IntRange(1, 5).Draw(rt, "replicas"))
		defer r.stop()
		limits := make([]counter.Limit, rapid.IntRange(1, 4).Draw(rt, "limits"))
		for i := range limits {
			limits[i] = limit(rapid.SampledFrom([]counter.Window{counter.Day, counter.InUse, counter.SlidingHour}).Draw(rt, "window"), rapid.Int64Range(-1, 20).Draw(rt, "max"))
		}
		set := r.LocalShare().Open(limits)
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
	shared := &troubled{Store: memory.New()}
	r := startWith(t.Context(), shared, outage.Options{Deadline: patient, Replicas: func() int { return 1 }, Clock: func() time.Time { return noon }})
	defer r.stop()
	limits := []counter.Limit{limit(counter.Month, 1<<40), limit(counter.SlidingHour, 1<<40)}
	set := r.LocalShare().Open(limits)
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
