package outage_test

import (
	"context"
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
)

// A free store costs nothing: what is measured is what this package adds to another.
type free struct{ *troubled }

type freeSet []counter.Count

func (free) Open(limits []counter.Limit) counter.Set { return make(freeSet, len(limits)) }

// Acquire implements counter.Set.
func (s freeSet) Acquire(
	_ context.Context, now time.Time, _ counter.LeaseID, _ time.Time, _ []int64, counts []counter.Count,
) (bool, error) {
	for i := range s {
		counts[i] = counter.Count{Used: int64(i), Reset: now.Truncate(time.Hour).Add(time.Hour)}
	}
	return true, nil
}

// identity is the limits of one key.
func identity(n uint64, windows ...counter.Window) []counter.Limit {
	limits := make([]counter.Limit, len(windows))
	for i, w := range windows {
		limits[i] = counter.Limit{Window: w, Max: 1000}
		binary.BigEndian.PutUint64(limits[i].Key[:], n)
		limits[i].Key[8] = byte(i)
	}
	return limits
}

func BenchmarkAcquire(b *testing.B) {
	noon := time.Date(2026, time.May, 14, 12, 0, 0, 0, time.UTC)
	for name, windows := range map[string][]counter.Window{
		"calendar": {counter.Minute, counter.Hour, counter.Day, counter.InUse},
		"sliding":  {counter.SlidingMinute, counter.SlidingHour, counter.Day, counter.InUse},
	} {
		r := startPatiently(b, free{sound()}, 2)
		store := r.LocalShare()
		one := store.Open(identity(0, windows...))
		hits := []int64{1, 1, 1, 1}
		b.Run(name+"/one", func(b *testing.B) {
			b.ReportAllocs()
			counts := make([]counter.Count, 4)
			for b.Loop() {
				if ok, err := one.Acquire(b.Context(), noon, counter.LeaseID{}, noon, hits, counts); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
		b.Run(name+"/all at once", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				counts := make([]counter.Count, 4)
				for pb.Next() {
					if ok, err := one.Acquire(b.Context(), noon, counter.LeaseID{}, noon, hits, counts); !ok || err != nil {
						b.Fatal(ok, err)
					}
				}
			})
		})
		r.stop()
	}
}

// BenchmarkMemory tells what each of 100,000 keys with four limits takes, beside what the shared store does.
func BenchmarkMemory(b *testing.B) {
	const keys = 100_000
	noon := time.Date(2026, time.May, 14, 12, 0, 0, 0, time.UTC)
	for b.Loop() {
		r := startPatiently(b, free{sound()}, 2)
		store := r.LocalShare()
		sets, hits, counts := make([]counter.Set, keys), []int64{1, 1, 1, 1}, make([]counter.Count, 4)
		before := inUse()
		for n := range sets {
			sets[n] = store.Open(identity(uint64(n), counter.Minute, counter.Hour, counter.Day, counter.Month))
			if ok, err := sets[n].Acquire(b.Context(), noon, counter.LeaseID{}, noon, hits, counts); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
		b.ReportMetric(float64(inUse()-before)/keys, "B/key")
		runtime.KeepAlive(sets)
		r.stop()
	}
}

func inUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
