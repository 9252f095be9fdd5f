package countertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
)

// crowd is the number of goroutines that call a store at once.
const crowd = 1000

// A caller is one of the crowd: a set that names counters of its own identity and counters that many share, in an order
// of its own.
type caller struct {
	ctx    context.Context
	rand   *rand.Rand
	store  counter.Store
	limits []counter.Limit
	set    counter.Set
}

func gather(f *fixture, shared []counter.Limit, identities [][]counter.Limit) []*caller {
	seed := rand.Uint64()
	f.Logf("seed %d", seed)
	callers := make([]*caller, crowd)
	for i := range callers {
		c := &caller{ctx: f.Context(), rand: rand.New(rand.NewPCG(seed, uint64(i))), store: f.store}
		c.limits = slices.Concat(shared, identities[i%len(identities)])
		c.rand.Shuffle(len(c.limits), func(i, j int) { c.limits[i], c.limits[j] = c.limits[j], c.limits[i] })
		c.set = f.store.Open(c.limits)
		callers[i] = c
	}
	return callers
}

// everyone calls do for all callers at once.
func everyone(callers []*caller, do func(*caller) error) error {
	var (
		start = make(chan struct{})
		done  sync.WaitGroup
		errs  = make([]error, len(callers))
	)
	for i, c := range callers {
		done.Go(func() {
			<-start
			errs[i] = do(c)
		})
	}
	close(start)
	done.Wait()
	return errors.Join(errs...)
}

// An attempt is a call of Acquire and what came of it.
type attempt struct {
	limits []counter.Limit
	lease  counter.LeaseID
	hits   []int64
	ok     bool
	counts []counter.Count
}

// acquire takes up to two hits of each counter, and one of those that have no bound.
func (c *caller) acquire() (attempt, error) {
	n := len(c.limits)
	a := attempt{limits: c.limits, lease: newLease(), hits: make([]int64, n), counts: make([]counter.Count, n)}
	for i, l := range c.limits {
		a.hits[i] = 1
		if l.Max < math.MaxInt64 {
			a.hits[i] = c.rand.Int64N(3)
		}
	}
	ok, err := c.set.Acquire(c.ctx, noon, a.lease, noon.Add(time.Minute), a.hits, a.counts)
	a.ok = ok
	return a, err
}

// identities returns the counters of n API keys.
func (f *fixture) identities(n int) [][]counter.Limit {
	all := make([][]counter.Limit, n)
	for i := range all {
		all[i] = []counter.Limit{
			f.limit(counter.Hour, 100), f.limit(counter.Day, 90), f.limit(counter.SlidingHour, 95), f.limit(counter.InUse, 60),
		}
	}
	return all
}

// crowdIsAdmittedOneByOne lets a crowd acquire, and then plays the same calls to the model, one after the other. The turn,
// a counter that every admitted call takes one hit of, tells in which order the store must have answered.
func crowdIsAdmittedOneByOne(f *fixture) {
	turn := f.limit(counter.Minute, math.MaxInt64)
	shared := []counter.Limit{f.limit(counter.Hour, 2500), f.limit(counter.SlidingMinute, 2400), f.limit(counter.InUse, 1500), turn}
	var (
		mu       sync.Mutex
		attempts []attempt
	)
	err := everyone(gather(f, shared, f.identities(40)), func(c *caller) error {
		for range 4 {
			a, err := c.acquire()
			if err != nil {
				return err
			}
			mu.Lock()
			attempts = append(attempts, a)
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		f.Fatalf("Acquire: %v", err)
	}
	slices.SortFunc(attempts, func(a, b attempt) int {
		if a.ok != b.ok && a.used(turn) == b.used(turn) {
			return map[bool]int{true: -1, false: 1}[a.ok] // who was refused has seen the turn of who was admitted
		}
		return cmp.Compare(a.used(turn), b.used(turn))
	})
	replay(f, attempts)
}

// used returns what the counter of l held after the attempt.
func (a attempt) used(l counter.Limit) int64 { return a.counts[slices.Index(a.limits, l)].Used }

// replay wants the model to answer every attempt as the store did.
func replay(f *fixture, attempts []attempt) {
	m, admitted := newModel(), 0
	for i, a := range attempts {
		counts := make([]counter.Count, len(a.hits))
		ok, err := m.Open(a.limits).Acquire(f.Context(), noon, a.lease, noon.Add(time.Minute), a.hits, counts)
		if err != nil {
			f.Fatalf("Acquire of the model: %v", err)
		}
		if diff := gocmp.Diff(counts, a.counts); ok != a.ok || diff != "" {
			f.Fatalf("call %d of %d in turn: Acquire is %v, want %v, counts (-want +got):\n%s", i, len(attempts), a.ok, ok, diff)
		}
		if ok {
			admitted++
		}
	}
	if admitted == 0 || admitted == len(attempts) {
		f.Fatalf("%d of %d calls are admitted, which proves nothing", admitted, len(attempts))
	}
}

// fill lets a crowd take single hits of a shared limit and of one of its own, of each more than there are, and returns how
// many were admitted. The own ones would let more through than the shared one.
func fill(f *fixture, shared counter.Limit) int64 {
	var admitted atomic.Int64
	own := make([][]counter.Limit, 40)
	for i := range own {
		own[i] = []counter.Limit{f.limit(counter.Hour, 10)}
	}
	err := everyone(gather(f, []counter.Limit{shared}, own), func(c *caller) error {
		ok, err := c.set.Acquire(c.ctx, noon, newLease(), noon.Add(time.Minute), []int64{1, 1}, make([]counter.Count, 2))
		if ok {
			admitted.Add(1)
		}
		return err
	})
	if err != nil {
		f.Fatalf("Acquire: %v", err)
	}
	return admitted.Load()
}

func crowdFillsALimit(f *fixture) {
	if got := fill(f, f.limit(counter.Hour, crowd/4)); got != crowd/4 {
		f.Fatalf("of %d calls %d are admitted, want %d", crowd, got, crowd/4)
	}
}

// crowdIsNeverOver however many are refused, and what was taken for those who were refused is there for the next.
func crowdIsNeverOver(f *fixture) {
	l := f.limit(counter.Hour, crowd/4)
	admitted := fill(f, l)
	if admitted > l.Max {
		f.Fatalf("of %d calls %d are admitted, want at most %d", crowd, admitted, l.Max)
	}
	f.Logf("%d calls were refused too early", l.Max-admitted)
	f.wantUsed(noon, []counter.Limit{l}, admitted)
	for range l.Max - admitted {
		f.take(f.store.Open([]counter.Limit{l, f.limit(counter.Hour, 1)}), noon, 1, 1)
	}
	f.refuse(f.store.Open([]counter.Limit{l}), noon, 1)
}

// crowdLeavesWhatWasUsed lets a crowd acquire, renew and settle. In the end the counters must hold exactly what was used,
// and nobody may ever have held a slot too many.
func crowdLeavesWhatWasUsed(f *fixture) {
	shared := []counter.Limit{f.limit(counter.Minute, math.MaxInt64), f.limit(counter.Hour, 3000), f.limit(counter.SlidingMinute, 3000), f.limit(counter.InUse, 50)}
	keys := f.identities(40)
	var (
		mu   sync.Mutex
		want = map[counter.Key]int64{}
	)
	err := everyone(gather(f, shared, keys), func(c *caller) error {
		for range 4 {
			s, err := c.serve()
			if err != nil {
				return err
			}
			mu.Lock()
			for _, charge := range s.Charges {
				if charge.Window != counter.InUse {
					want[charge.Key] += charge.Used
				}
			}
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	if n := want[shared[0].Key]; n == 0 || n >= 4*crowd {
		f.Fatalf("%d calls are admitted, which proves nothing", n)
	}
	for _, l := range append(slices.Concat(keys...), shared...) {
		if got := f.peek(noon, l)[0].Used; got != want[l.Key] {
			f.Errorf("after all settlements a counter per %v holds %d, want %d", l.Window, got, want[l.Key])
		}
	}
}

// serve acquires and, if admitted, renews and settles. It returns the settlement.
func (c *caller) serve() (counter.Settlement, error) {
	a, err := c.acquire()
	if err != nil || !a.ok {
		return counter.Settlement{}, err
	}
	s := settlement(a.lease, noon, a.limits, a.hits)
	for i, l := range a.limits {
		if l.Window == counter.InUse && a.hits[i] > 0 && a.counts[i].Used > l.Max {
			return s, fmt.Errorf("%d slots are held of %d", a.counts[i].Used, l.Max)
		}
	}
	if err := c.store.Renew(c.ctx, noon, a.lease, slotsOf(s), noon.Add(time.Minute)); err != nil {
		return s, err
	}
	for i, charge := range s.Charges {
		if charge.Window != counter.Minute {
			s.Charges[i].Used = c.rand.Int64N(5)
		}
	}
	return s, c.store.Settle(c.ctx, noon, s)
}

func slotsOf(s counter.Settlement) []counter.Key {
	var slots []counter.Key
	for _, charge := range s.Charges {
		if charge.Window == counter.InUse {
			slots = append(slots, charge.Key)
		}
	}
	return slots
}
