package countertest

import (
	"math"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
)

func allOrNothing(f *fixture) {
	limits := []counter.Limit{f.limit(counter.Minute, 10), f.limit(counter.Day, 3), f.limit(counter.Month, 10)}
	set := f.store.Open(limits)
	f.take(set, noon, 2, 3, 4)

	_, ok, counts := f.acquire(set, noon, 1, 1, 1)
	if ok {
		f.Errorf("4 hits are taken where 3 fit")
	}
	want := []counter.Count{
		{Used: 2, Reset: time.Date(2024, time.February, 14, 12, 31, 0, 0, time.UTC)},
		{Used: 3, Reset: time.Date(2024, time.February, 15, 0, 0, 0, 0, time.UTC)},
		{Used: 4, Reset: time.Date(2024, time.March, 1, 0, 0, 0, 0, time.UTC)},
	}
	if diff := cmp.Diff(want, counts); diff != "" {
		f.Errorf("counts of a refusal (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, f.peek(noon, limits...)); diff != "" {
		f.Errorf("counters after a refusal (-want +got):\n%s", diff)
	}
	f.take(set, noon, 8, 0, 6)
}

func hitsOfZeroTakeNothing(f *fixture) {
	full, slot := f.limit(counter.Hour, 5), f.limit(counter.InUse, 0)
	set := f.store.Open([]counter.Limit{full, slot})
	f.take(set, noon, 5, 0)

	lower := full
	lower.Max = 1
	for _, hits := range []int64{0, -1, math.MinInt64} {
		f.take(f.store.Open([]counter.Limit{slot, lower}), noon, hits, hits)
		f.wantUsed(noon, []counter.Limit{full, slot}, 5, 0)
	}
	_, _, counts := f.acquire(set, noon, 0, 0)
	if diff := cmp.Diff([]int64{5, 0}, used(counts)); diff != "" {
		f.Errorf("counts of no hits (-want +got):\n%s", diff)
	}
}

func maxOfZeroAdmitsNothing(f *fixture) {
	for _, most := range []int64{0, -1, math.MinInt64} {
		for w := counter.Second; w.Valid(); w++ {
			l := f.limit(w, most)
			f.refuse(f.store.Open([]counter.Limit{l}), noon, 1)
			f.wantUsed(noon, []counter.Limit{l}, 0)
		}
	}
}

func countsNeverOverflow(f *fixture) {
	l := f.limit(counter.Hour, math.MaxInt64)
	set := f.store.Open([]counter.Limit{l})
	f.refuse(set, noon, counter.MaxCount+1)
	lease := f.take(set, noon, counter.MaxCount-1)
	f.refuse(set, noon, 2)
	f.refuse(set, noon, math.MaxInt64)
	f.wantUsed(noon, []counter.Limit{l}, counter.MaxCount-1)

	f.settle(noon, lease, noon, counter.Charge{Key: l.Key, Window: l.Window, Charged: math.MinInt64, Used: math.MaxInt64})
	f.wantUsed(noon, []counter.Limit{l}, counter.MaxCount)
	f.refuse(set, noon, 1)
}

func anEmptySetAdmits(f *fixture) {
	f.take(f.store.Open(nil), noon)
}

func aSetHoldsMaxLimits(f *fixture) {
	limits, hits := make([]counter.Limit, counter.MaxLimits), make([]int64, counter.MaxLimits)
	for i := range limits {
		limits[i], hits[i] = f.limit(counter.Minute, int64(i)+1), int64(i)+1
	}
	set := f.store.Open(limits)
	f.take(set, noon, hits...)
	f.refuse(set, noon, hits...)
	f.wantUsed(noon, limits, hits...)
}

func openPanicsForAWrongSet(f *fixture) {
	twice := f.limit(counter.Minute, 1)
	tooMany := make([]counter.Limit, counter.MaxLimits+1)
	for i := range tooMany {
		tooMany[i] = f.limit(counter.Minute, 1)
	}
	for name, limits := range map[string][]counter.Limit{
		"a key named twice":        {twice, f.limit(counter.Minute, 1), twice},
		"an unknown window":        {f.limit(0, 1)},
		"more than MaxLimits":      tooMany,
		"a window behind the last": {f.limit(counter.SlidingHour+1, 1)},
	} {
		func() {
			defer func() {
				if recover() == nil {
					f.Errorf("Open accepts %s", name)
				}
			}()
			f.store.Open(limits)
		}()
	}
}

// setsShareACounter is what happens while a key changes its tier.
func setsShareACounter(f *fixture) {
	low, other := f.limit(counter.Day, 3), f.limit(counter.Day, 100)
	high := low
	high.Max = 5
	before, after := f.store.Open([]counter.Limit{low, other}), f.store.Open([]counter.Limit{other, high})

	f.take(before, noon, 3, 1)
	f.refuse(before, noon, 1, 1)
	f.take(after, noon, 1, 2)
	f.refuse(before, noon, 1, 1)
	f.refuse(after, noon, 1, 3)
	f.wantUsed(noon, []counter.Limit{low, other}, 5, 2)
}

func peekChangesNothing(f *fixture) {
	limits := []counter.Limit{f.limit(counter.Minute, 1), f.limit(counter.InUse, 1)}
	set := f.store.Open(limits)
	f.wantUsed(noon.Add(59*time.Second), limits, 0, 0) // of counters that are not there
	f.take(set, noon, 1, 1)
	f.wantUsed(noon.Add(59*time.Second), limits, 0, 0) // of counters whose time is over
	f.refuse(set, noon, 1, 0)
	f.refuse(set, noon, 0, 1)
	f.wantUsed(noon, limits, 1, 1)

	unknown := f.limit(counter.Month, 1)
	want := []counter.Count{{Reset: time.Date(2024, time.March, 1, 0, 0, 0, 0, time.UTC)}, {}}
	if diff := cmp.Diff(want, f.peek(noon, unknown, f.limit(counter.InUse, 1))); diff != "" {
		f.Errorf("counters that are not there (-want +got):\n%s", diff)
	}
}

// peekTakesAnyNumber of limits, and more than a set can hold.
func peekTakesAnyNumber(f *fixture) {
	limits, want := make([]counter.Limit, 5*counter.MaxLimits), make([]int64, 5*counter.MaxLimits)
	for i := range limits {
		limits[i], want[i] = f.limit(counter.Hour, 10), int64(i%3)
		f.take(f.store.Open(limits[i:i+1]), noon, want[i])
	}
	f.wantUsed(noon, limits, want...)
	f.peek(noon)

	higher := limits[1]
	higher.Max++
	f.wantUsed(noon, []counter.Limit{limits[1], limits[2], higher, limits[1]}, 1, 2, 1, 1)
}

// whatIsNamedTwiceIsOneCounter in what a lease brings back as well.
func whatIsNamedTwiceIsOneCounter(f *fixture) {
	rate, slot := f.limit(counter.Hour, 10), f.limit(counter.InUse, 10)
	lease := f.take(f.store.Open([]counter.Limit{rate, slot}), noon, 5, 1)
	keys := []counter.Key{slot.Key, slot.Key}
	if err := f.store.Renew(f.Context(), noon, lease, keys, noon.Add(time.Minute)); err != nil {
		f.Fatalf("Renew: %v", err)
	}
	f.wantUsed(noon, []counter.Limit{rate, slot}, 5, 1)
	charge := counter.Charge{Key: rate.Key, Window: rate.Window, Charged: 2, Used: 1}
	f.settle(noon, lease, noon, charge, free(slot), free(slot), charge)
	f.wantUsed(noon, []counter.Limit{rate, slot}, 3, 0)
}
