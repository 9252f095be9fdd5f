package memory_test

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

var noon = time.Date(2024, time.February, 14, 12, 30, 30, 500_000_000, time.UTC)

// windows are those of a request with six rates and a concurrency limit.
var windows = []counter.Window{
	counter.Minute, counter.Minute, counter.Day, counter.Hour, counter.Hour, counter.Month, counter.InUse,
}

// slidingWindows are the same with rates that slide.
var slidingWindows = []counter.Window{
	counter.SlidingMinute, counter.SlidingMinute, counter.SlidingSecond, counter.SlidingHour, counter.SlidingHour,
	counter.SlidingSecond, counter.InUse,
}

func key(n uint64) counter.Key {
	digest := sha256.Sum256(binary.BigEndian.AppendUint64(nil, n))
	return counter.Key(digest[:len(counter.Key{})])
}

// independent returns the limits of identity n, all its own.
func independent(n uint64, most int64) []counter.Limit {
	limits := make([]counter.Limit, len(windows))
	for i, w := range windows {
		limits[i] = counter.Limit{Key: key(n*uint64(len(windows)) + uint64(i)), Window: w, Max: most}
	}
	return limits
}

// shared returns the limits of identity n: the first is common to all, the second to a tenth, the third to a
// thousandth, and four are its own.
func shared(n uint64, most int64) []counter.Limit {
	limits := independent(n, most)
	limits[0].Key = key(1 << 40)
	limits[1].Key = key(1<<41 + n%10)
	limits[2].Key = key(1<<42 + n%1000)
	return limits
}

// sliding returns the limits of identity n, all its own, with rates that slide.
func sliding(n uint64, most int64) []counter.Limit {
	limits := independent(n, most)
	for i, w := range slidingWindows {
		limits[i].Window = w
	}
	return limits
}

// identities make about 100,000 counters.
const identities = 100_000 / 7

func openAll(store *memory.Store, limits func(uint64, int64) []counter.Limit, most int64) []counter.Set {
	sets := make([]counter.Set, identities)
	for n := range sets {
		sets[n] = store.Open(limits(uint64(n), most))
	}
	return sets
}

// Traffic is what one goroutine sends: requests of random identities, whose slots have expired by the next of the same.
type traffic struct {
	sets   []counter.Set
	rand   *rand.Rand
	hits   []int64
	counts []counter.Count
}

var generators atomic.Uint64

func newTraffic(sets []counter.Set) *traffic {
	return &traffic{
		sets: sets, rand: rand.New(rand.NewPCG(1, generators.Add(1))),
		hits: []int64{1, 800, 1, 800, 1, 800, 1}, counts: make([]counter.Count, len(windows)),
	}
}

func (l *traffic) acquire(tb testing.TB, now time.Time) bool {
	set := l.sets[l.rand.IntN(len(l.sets))]
	ok, err := set.Acquire(tb.Context(), now, counter.LeaseID{}, now.Add(1), l.hits, l.counts)
	if err != nil {
		tb.Fatal(err)
	}
	return ok
}

func BenchmarkAcquire(b *testing.B) {
	for _, bench := range []struct {
		name   string
		limits func(uint64, int64) []counter.Limit
		most   int64
		step   time.Duration // between two requests; an identity comes back after about 14,000 of them
	}{
		{"independent/admitted", independent, math.MaxInt64, 1},
		{"independent/refused", independent, 1000, 1},
		{"shared/admitted", shared, math.MaxInt64, 1},
		{"shared/refused", shared, 1000, 1},
		{"sliding/admitted", sliding, math.MaxInt64, 1},
		{"sliding/refused", sliding, 1000, 1},
		{"sliding/moving", sliding, math.MaxInt64, time.Millisecond},
	} {
		sets := openAll(memory.New(), bench.limits, bench.most)
		fill := newTraffic(sets)
		for i := range 4 * identities {
			fill.acquire(b, noon.Add(time.Duration(i)*bench.step))
		}
		start := noon.Add(4 * identities * bench.step)
		b.Run(bench.name+"/one", func(b *testing.B) {
			b.ReportAllocs()
			l := newTraffic(sets)
			for i := 0; b.Loop(); i++ {
				l.acquire(b, start.Add(time.Duration(i)*bench.step))
			}
		})
		b.Run(bench.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				l := newTraffic(sets)
				for i := 0; pb.Next(); i++ {
					l.acquire(b, start.Add(time.Duration(i)*bench.step))
				}
			})
		})
	}
}

// BenchmarkSettle ends leases of random identities: six corrections and a slot.
func BenchmarkSettle(b *testing.B) {
	store := memory.New()
	openAll(store, independent, math.MaxInt64)
	settlements := make([]counter.Settlement, identities)
	for n := range settlements {
		settlements[n].Taken = noon
		for _, l := range independent(uint64(n), 0) {
			settlements[n].Charges = append(settlements[n].Charges, counter.Charge{Key: l.Key, Window: l.Window, Charged: 1, Used: 2})
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := store.Settle(b.Context(), noon.Add(time.Duration(i)), settlements[rand.IntN(identities)]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkManySlots takes and frees one slot of a counter of which very many are held.
func BenchmarkManySlots(b *testing.B) {
	for _, held := range []uint64{10, 1000, 10_000} {
		b.Run(strconv.FormatUint(held, 10), func(b *testing.B) {
			store, limits, now := memory.New(), []counter.Limit{{Key: key(1), Window: counter.InUse, Max: math.MaxInt64}}, noon
			set, counts, hits := store.Open(limits), make([]counter.Count, 1), []int64{1}
			settlement := counter.Settlement{Charges: []counter.Charge{{Key: key(1), Window: counter.InUse}}}
			turn := func(i uint64) {
				now = now.Add(time.Millisecond)
				binary.BigEndian.PutUint64(settlement.Lease[:], i)
				if ok, err := set.Acquire(b.Context(), now, settlement.Lease, now.Add(time.Hour), hits, counts); !ok || err != nil {
					b.Fatal(ok, err)
				}
				if i < held {
					return
				}
				binary.BigEndian.PutUint64(settlement.Lease[:], i-held)
				if err := store.Settle(b.Context(), now, settlement); err != nil {
					b.Fatal(err)
				}
			}
			for i := range held {
				turn(i)
			}
			b.ReportAllocs()
			for i := held; b.Loop(); i++ {
				turn(i)
			}
		})
	}
}

// BenchmarkFlush writes about 86,000 counters that have changed.
func BenchmarkFlush(b *testing.B) {
	store, err := memory.Load(filepath.Join(b.TempDir(), "counters.db"), noon)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	sets := openAll(store, independent, math.MaxInt64)
	t := newTraffic(sets)
	for b.Loop() {
		b.StopTimer()
		for _, set := range sets {
			t.sets = []counter.Set{set}
			t.acquire(b, noon)
		}
		b.StartTimer()
		if err := store.Flush(noon); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSweep visits 100,000 counters and finds nothing to forget.
func BenchmarkSweep(b *testing.B) {
	store := memory.New()
	for _, set := range openAll(store, independent, math.MaxInt64) {
		newTraffic([]counter.Set{set}).acquire(b, noon)
	}
	for b.Loop() {
		store.Sweep(noon)
	}
}

// BenchmarkOpen reports the memory of an identity with six rates and a concurrency limit.
func BenchmarkOpen(b *testing.B) {
	var sets []counter.Set
	for b.Loop() {
		before := heap()
		store := memory.New()
		sets = openAll(store, independent, math.MaxInt64)
		b.ReportMetric(float64(heap()-before)/identities, "B/identity")
		runtime.KeepAlive(store)
	}
	runtime.KeepAlive(sets)
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
