package outage_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/counter"
)

// TestAnOutageAdmitsNoMoreThanItMay has several replicas take from one limit before, in and after an outage, all within one window.
func TestAnOutageAdmitsNoMoreThanItMay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := sound()
			n := rapid.IntRange(1, 5).Draw(rt, "replicas")
			most := rapid.Int64Range(0, 60).Draw(rt, "max")
			l := limit(rapid.SampledFrom([]counter.Window{counter.Day, counter.SlidingHour}).Draw(rt, "window"), most)
			replicas, sets := startAll(t, shared, n, l)
			asked := func(what string) (n int) {
				for i, tries := range rapid.SliceOfN(rapid.IntRange(0, 40), len(sets), len(sets)).Draw(rt, what) {
					n += admitted(t, sets[i], tries)
				}
				return n
			}
			before := asked("before")
			shared.is(rapid.SampledFrom([]trouble{silent, failing}).Draw(rt, "trouble"))
			during := asked("during")
			if limit := int(most) + len(replicas) - 1; during > limit || most == 0 && during > 0 {
				rt.Fatalf("the outage admits %d of a limit of %d at %d replicas", during, most, len(replicas))
			}
			if remains := int(most) - before; len(replicas) == 1 && during > remains {
				rt.Fatalf("one replica admits %d in an outage, though it saw that %d remain", during, remains)
			}
			shared.recovers(replicas...)
			if got := used(t, shared, l)[0]; got != int64(before+during) {
				rt.Fatalf("the store has %d after the outage, want %d from before and %d from within", got, before, during)
			}
			if asked("after") > 0 && int64(before+during) >= most {
				rt.Fatalf("of a limit of %d something is admitted after %d before an outage and %d within", most, before, during)
			}
		})
	})
}

// TestWhoIsBackFirstTakesNothingFromOthers has replicas notice at different times that a store is out, and that it is back, while they
// are asked all the time.
func TestWhoIsBackFirstTakesNothingFromOthers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var wrong string
		synctest.Test(t, func(t *testing.T) {
			shared := sound()
			n := rapid.IntRange(2, 4).Draw(rt, "replicas")
			most := rapid.Int64Range(1, 60).Draw(rt, "max")
			l := limit(rapid.SampledFrom([]counter.Window{counter.Day, counter.SlidingHour}).Draw(rt, "window"), most)
			replicas, sets := startAll(t, shared, n, l)
			sum := 0
			for _, set := range sets {
				sum += admitted(t, set, rapid.IntRange(0, 20).Draw(rt, "before"))
			}
			for _, set := range sets {
				take(t, set, 0) // so that all have seen the same
			}
			shared.is(rapid.SampledFrom([]trouble{silent, failing}).Draw(rt, "trouble"))
			for _, set := range sets {
				sum += admitted(t, set, rapid.IntRange(1, 20).Draw(rt, "during"))
				pass(time.Duration(rapid.IntRange(0, 100).Draw(rt, "milliseconds")) * time.Millisecond)
			}
			shared.is(none)
			for range 40 {
				for _, set := range sets {
					sum += admitted(t, set, 2)
				}
				pass(12 * time.Millisecond)
			}
			if limit := int(most) + len(replicas) - 1; sum > limit || sum < int(most) {
				wrong = fmt.Sprintf("of a limit of %d at %d replicas %d are admitted before an outage, within and after it", most, len(replicas), sum)
			}
			if got := used(t, shared, l)[0]; got != int64(sum) {
				wrong = fmt.Sprintf("the store has %d, want the %d that were admitted", got, sum)
			}
		})
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

// TestASlotThatTheStoreHasLearntOfIsFreed has a request end after the store was told of it, and before it is asked again.
func TestASlotThatTheStoreHasLearntOfIsFreed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := sound()
		shared.is(failing)
		r := start(t, shared, 2)
		l := limit(counter.InUse, 10)
		taken := now()
		lease, _ := take(t, r.open(l), 1)
		shared.is(none)
		for used(t, shared, l)[0] == 0 {
			pass(time.Millisecond)
		}
		if !r.Stats().Out {
			t.Fatal("the store is asked again at once, want it asked when others have found it")
		}
		r.settle(t, lease, taken, charge(l, 0, 0))
		r.back()
		wantUsed(t, "slots that are held", []int64{0}, shared, l)
	})
}

// TestWhatAnotherReplicaHasAdmittedIsSettled has a request begin and end in an outage, at different replicas, of which either is the
// first to find the store again.
func TestWhatAnotherReplicaHasAdmittedIsSettled(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]int{"the one that admitted it is back first": 0, "the one that settles it is back first": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				shared := sound()
				shared.is(failing)
				limits := []counter.Limit{limit(counter.Day, 1000), limit(counter.InUse, 10)}
				replicas, sets := startAll(t, shared, 2, limits...)
				take(t, sets[first], 1, 0) // so that it notices first
				pass(50 * time.Millisecond)
				take(t, sets[1-first], 1, 0)
				taken := now()
				lease, _ := take(t, sets[0], 100, 1)
				pass(time.Second)
				replicas[1].settle(t, lease, taken, charge(limits[0], 100, 30), charge(limits[1], 0, 0))
				pass(60 * time.Millisecond) // to between the probes of the two
				shared.recovers(replicas...)
				wantUsed(t, "after the outage", []int64{32, 0}, shared, limits...)
			})
		})
	}
}

// TestAClaimThatIsMadeAnewIsReturnedWhereItWasMade has a store fail while replicas claim their parts.
func TestAClaimThatIsMadeAnewIsReturnedWhereItWasMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := sound()
		shared.is(failing)
		r := start(t, shared, 2)
		l := limit(counter.SlidingMinute, 100)
		take(t, r.open(l), 1)
		shared.is(none)
		for used(t, shared, l)[0] != 50 {
			pass(time.Millisecond)
		}
		take(t, r.open(limit(counter.Day, 100)), 1) // so that there is more to claim, which fails
		shared.is(failing)
		pass(5 * time.Second)
		shared.recovers(r)
		wantUsed(t, "after a claim of 50, of which one was taken", []int64{1}, shared, l)
	})
}
