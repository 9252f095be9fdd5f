package memory_test

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/countertest"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

func TestStore(t *testing.T) {
	t.Parallel()
	countertest.Run(t, func(*testing.T) counter.Store { return memory.New() })
}

// TestSweptStore shows that nobody can see what a sweep takes away.
func TestSweptStore(t *testing.T) {
	t.Parallel()
	countertest.Run(t, func(*testing.T) counter.Store { return &swept{memory.New()} })
}

// swept sweeps before each call.
type swept struct{ *memory.Store }

func (s *swept) Open(limits []counter.Limit) counter.Set {
	return &sweptSet{s.Store.Open(limits), s.Store}
}

func (s *swept) Settle(ctx context.Context, now time.Time, settlement counter.Settlement) error {
	s.Sweep(now)
	return s.Store.Settle(ctx, now, settlement)
}

func (s *swept) Renew(ctx context.Context, now time.Time, lease counter.LeaseID, keys []counter.Key, expiry time.Time) error {
	s.Sweep(now)
	return s.Store.Renew(ctx, now, lease, keys, expiry)
}

func (s *swept) Peek(ctx context.Context, now time.Time, limits []counter.Limit, counts []counter.Count) error {
	s.Sweep(now)
	return s.Store.Peek(ctx, now, limits, counts)
}

type sweptSet struct {
	counter.Set
	store *memory.Store
}

func (s *sweptSet) Acquire(
	ctx context.Context, now time.Time, lease counter.LeaseID, expiry time.Time, hits []int64, counts []counter.Count,
) (bool, error) {
	s.store.Sweep(now)
	return s.Set.Acquire(ctx, now, lease, expiry, hits, counts)
}

// acquire takes one hit of each limit.
func acquire(t *testing.T, set counter.Set, now time.Time, limits []counter.Limit) (bool, []counter.Count) {
	t.Helper()
	counts := make([]counter.Count, len(limits))
	hits := slices.Repeat([]int64{1}, len(limits))
	ok, err := set.Acquire(t.Context(), now, counter.LeaseID{1}, now.Add(30*time.Second), hits, counts)
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	return ok, counts
}

func used(t *testing.T, store counter.Store, now time.Time, limits []counter.Limit) []int64 {
	t.Helper()
	counts, n := make([]counter.Count, len(limits)), make([]int64, len(limits))
	if err := store.Peek(t.Context(), now, limits, counts); err != nil {
		t.Fatalf("Peek: %v", err)
	}
	for i, c := range counts {
		n[i] = c.Used
	}
	return n
}

// everyWindow returns a limit of 2 for each window.
func everyWindow() []counter.Limit {
	var limits []counter.Limit
	for w := counter.Second; w.Valid(); w++ {
		limits = append(limits, counter.Limit{Key: key(uint64(w)), Window: w, Max: 2})
	}
	return limits
}

// keptWindows are those of everyWindow that reach the file.
func keptWindows() []counter.Limit {
	all := everyWindow()
	return slices.Concat(all[1:5], all[7:])
}

func TestSweepForgetsWhatIsOver(t *testing.T) {
	t.Parallel()
	store, limits := memory.New(), everyWindow()
	set := store.Open(limits)
	acquire(t, set, noon, limits)
	for _, step := range []struct {
		now  time.Time
		want int
	}{
		{noon, 9},
		{noon.Add(59 * time.Second), 9},
		{noon.Add(61 * time.Second), 8}, // the second
		{noon.Add(61*time.Second + 62_499_999), 8},
		{noon.Add(61*time.Second + 62_500_000), 7}, // the second that slides
		{time.Date(2024, time.February, 14, 12, 31, 59, 0, time.UTC), 7},
		{time.Date(2024, time.February, 14, 12, 32, 0, 0, time.UTC), 6},            // the minute
		{time.Date(2024, time.February, 14, 12, 32, 0, 500_000_000, time.UTC), 5},  // the slot
		{time.Date(2024, time.February, 14, 12, 32, 33, 750_000_000, time.UTC), 4}, // the minute that slides
		{time.Date(2024, time.February, 14, 13, 1, 0, 0, time.UTC), 3},             // the hour
		{time.Date(2024, time.February, 14, 13, 34, 44, 0, time.UTC), 3},
		{time.Date(2024, time.February, 14, 13, 34, 45, 0, time.UTC), 2}, // the hour that slides
		{time.Date(2024, time.February, 15, 0, 1, 0, 0, time.UTC), 1},    // the day
		{time.Date(2024, time.March, 1, 0, 0, 59, 0, time.UTC), 1},
		{time.Date(2024, time.March, 1, 0, 1, 0, 0, time.UTC), 0}, // the month
		{noon, 0}, // a clock that was set back
	} {
		store.Sweep(step.now)
		if got := store.Len(); got != step.want {
			t.Errorf("after a sweep at %v there are %d counters, want %d", step.now, got, step.want)
		}
	}
}

func TestSweepKeepsSlotsAndSettlements(t *testing.T) {
	t.Parallel()
	store := memory.New()
	limits := []counter.Limit{{Key: key(1), Window: counter.InUse, Max: 1}, {Key: key(2), Window: counter.InUse, Max: 1}}
	acquire(t, store.Open(limits[:1]), noon, limits[:1])
	settlement := counter.Settlement{Charges: []counter.Charge{{Key: limits[1].Key, Window: counter.InUse}}}
	if err := store.Settle(t.Context(), noon, settlement); err != nil {
		t.Fatalf("Settle: %v", err)
	}
	for _, step := range []struct {
		after time.Duration // beyond the grace
		want  int
	}{{counter.Remember - 1, 2}, {counter.Remember, 1}, {30*time.Second - 1, 1}, {30 * time.Second, 0}} {
		store.Sweep(noon.Add(time.Minute + step.after))
		if got := store.Len(); got != step.want {
			t.Errorf("%v after the grace there are %d counters, want %d", step.after, got, step.want)
		}
	}
}

// TestHeldSetOpensAgain shows that sets that were opened before a sweep still count together with those opened after.
func TestHeldSetOpensAgain(t *testing.T) {
	t.Parallel()
	store, limits := memory.New(), everyWindow()
	before := store.Open(limits)
	next := noon.AddDate(0, 3, 0)
	store.Sweep(next)
	if n := store.Len(); n != 0 {
		t.Fatalf("%d counters outlive a sweep", n)
	}
	after := store.Open(limits)
	if ok, _ := acquire(t, before, next, limits); !ok {
		t.Errorf("a set is refused after a sweep")
	}
	if ok, _ := acquire(t, after, next, limits); !ok {
		t.Errorf("a new set is refused after a sweep")
	}
	if ok, _ := acquire(t, before, next, limits); ok {
		t.Errorf("two sets do not count together after a sweep")
	}
	if diff := cmp.Diff([]int64{2, 2, 2, 2, 2, 2, 2, 2, 2}, used(t, store, next, limits)); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

// TestForgottenWindowStaysClosed shows that a clock that is far behind does not find an empty window in the past.
func TestForgottenWindowStaysClosed(t *testing.T) {
	t.Parallel()
	store, limits := memory.New(), []counter.Limit{{Key: key(1), Window: counter.Minute, Max: 1}}
	set := store.Open(limits)
	acquire(t, set, noon, limits)
	store.Sweep(noon.Add(10 * time.Minute))

	ok, counts := acquire(t, set, noon, limits)
	want := []counter.Count{{Used: 1, Reset: time.Date(2024, time.February, 14, 12, 40, 0, 0, time.UTC)}}
	if diff := cmp.Diff(want, counts); !ok || diff != "" {
		t.Errorf("ok %v, counts (-want +got):\n%s", ok, diff)
	}
	if ok, _ := acquire(t, store.Open(limits), noon.Add(9*time.Minute), limits); ok {
		t.Errorf("the window of the horizon is counted twice")
	}
}

// TestSweepWhileAcquiring takes the counters away under the hands of goroutines that hold sets of them. Were there ever
// two live cells of one key, a window would admit too much.
func TestSweepWhileAcquiring(t *testing.T) {
	t.Parallel()
	const most = 50
	store := memory.New()
	limits := []counter.Limit{
		{Key: key(1), Window: counter.Minute, Max: most},
		{Key: key(2), Window: counter.Second, Max: most},
		{Key: key(3), Window: counter.Minute, Max: most},
	}
	var (
		mu       sync.Mutex
		admitted = map[time.Time]int{}
		sweeps   atomic.Int64
		workers  sync.WaitGroup
	)
	for range 8 {
		workers.Go(func() {
			set := store.Open(limits)
			for i := range 2000 {
				if i%40 == 0 {
					store.Sweep(noon.Add(time.Duration(sweeps.Add(1)) * 2 * time.Minute))
				}
				if ok, counts := acquire(t, set, noon, limits); ok {
					mu.Lock()
					admitted[counts[0].Reset]++
					mu.Unlock()
				}
			}
		})
	}
	workers.Wait()
	for reset, n := range admitted {
		if n > most {
			t.Errorf("%d are admitted in the window that ends at %v, want at most %d", n, reset, most)
		}
	}
	if len(admitted) < 2 {
		t.Errorf("all are admitted in one window, which proves nothing")
	}
}

// TestAcquireAllocatesNothing counts the allocations of the whole process, so nothing may run beside it.
func TestAcquireAllocatesNothing(t *testing.T) {
	for name, most := range map[string]int64{"admitted": math.MaxInt64, "refused": 0} {
		store, now := memory.New(), noon
		l := newTraffic([]counter.Set{store.Open(independent(1, most)), store.Open(shared(2, most)), store.Open(sliding(3, most))})
		allocations := testing.AllocsPerRun(1000, func() {
			now = now.Add(7 * time.Second)
			if ok := l.acquire(t, now); ok != (most > 0) {
				t.Fatalf("a call is admitted: %v", ok)
			}
		})
		if allocations != 0 {
			t.Errorf("a call that is %s allocates %v times", name, allocations)
		}
	}
}
