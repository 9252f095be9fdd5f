package memory_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
)

// TestSlidingWindowAgainstALog sends random traffic to counters that slide, a million calls to each, and holds every answer against a
// plain log of what was taken when: never above the limit in any interval as long as the unit, and nothing refused that an
// interval longer by one sixteenth would have admitted.
func TestSlidingWindowAgainstALog(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const steps = 1_000_000
	for _, unit := range []struct {
		window counter.Window
		length time.Duration
	}{{counter.SlidingSecond, time.Second}, {counter.SlidingMinute, time.Minute}, {counter.SlidingHour, time.Hour}} {
		t.Run(unit.window.String(), func(t *testing.T) {
			t.Parallel()
			l := counter.Limit{Key: key(1), Window: unit.window, Max: 100}
			store := memory.New()
			log := &log{
				T: t, rand: rand.New(rand.NewPCG(seed, uint64(unit.window))), store: store, limit: l, set: store.Open([]counter.Limit{l}),
				unit: unit.length, now: noon,
			}
			for range steps {
				log.step()
			}
			if log.admitted < steps/20 || log.refused < steps/20 || log.settled < steps/20 || log.waited < steps/100 {
				t.Errorf("%d calls are admitted, %d refused, %d settled, and %d waited, which proves little", log.admitted, log.refused, log.settled, log.waited)
			}
		})
	}
}

// A log remembers what was taken when, as long as it can matter, from the earliest on.
type log struct {
	*testing.T
	rand  *rand.Rand
	store *memory.Store
	limit counter.Limit
	set   counter.Set
	unit  time.Duration

	now     time.Time // the latest that anybody has read
	entries []entry

	admitted, refused, settled, waited int
}

// An entry is hits that were taken.
type entry struct {
	at      time.Time
	taken   time.Time // what the clock said, which may have been before other entries
	charged int64
	used    int64
	settled bool
}

func (l *log) step() {
	l.wait()
	switch l.rand.IntN(4) {
	case 0:
		l.settle()
	default:
		l.acquire(l.now, 1+l.rand.Int64N(30))
	}
	for len(l.entries) > 0 && l.now.Sub(l.entries[0].at) > 2*l.unit {
		l.entries = l.entries[1:]
	}
}

// wait lets pass what keeps some forty calls in a unit, and at times so much that the window is empty.
func (l *log) wait() {
	d := time.Duration(l.rand.Int64N(int64(l.unit / 20)))
	if l.rand.IntN(100) == 0 {
		d = time.Duration(l.rand.Int64N(int64(2 * l.unit)))
	}
	l.now = l.now.Add(d)
}

// within is what was used from the start on.
func (l *log) within(start time.Time) (sum int64) {
	for i := len(l.entries) - 1; i >= 0 && !l.entries[i].at.Before(start); i-- {
		sum += l.entries[i].used
	}
	return sum
}

// acquire asks for hits. One clock in eight is behind, by up to a sub-window.
func (l *log) acquire(now time.Time, hits int64) {
	if l.rand.IntN(8) == 0 {
		now = now.Add(-time.Duration(l.rand.Int64N(int64(l.unit / counter.SubWindows))))
	}
	at := now // as the counter sees it: its time only moves forward
	if n := len(l.entries); n > 0 && l.entries[n-1].at.After(at) {
		at = l.entries[n-1].at
	}
	ok, count := l.call(now, hits)
	if !ok {
		l.refused++
		longer := l.unit + l.unit/counter.SubWindows
		if sum := l.within(at.Add(-longer)); sum+hits <= l.limit.Max {
			l.Fatalf("at %v %d hits are refused, and within the last %v only %d were used: %v", at, hits, longer, sum, l.entries)
		}
		if l.rand.IntN(4) == 0 {
			l.comeBack(now, count.Reset, hits)
		}
		return
	}
	l.admitted++
	l.entries = append(l.entries, entry{at: at, taken: now, charged: hits, used: hits})
	if sum := l.within(at.Add(-l.unit)); sum > l.limit.Max {
		l.Fatalf("at %v %d hits are taken, and within the last %v %d were used: %v", at, hits, l.unit, sum, l.entries)
	}
}

// comeBack holds the store to the time at which it said that hits fit: no earlier and no later.
func (l *log) comeBack(refused, fit time.Time, hits int64) {
	l.waited++
	if !fit.After(refused) {
		l.Fatalf("at %v %d hits are refused until %v", refused, hits, fit)
	}
	if ok, _ := l.call(fit.Add(-1), hits); ok {
		l.Fatalf("%d hits are refused until %v, and fit before", hits, fit)
	}
	ok, count := l.call(fit, hits)
	if !ok {
		l.Fatalf("%d hits are refused until %v, and do not fit then: %v", hits, fit, count)
	}
	l.now = later(l.now, fit)
	l.entries = append(l.entries, entry{at: fit, taken: fit, charged: hits, used: hits})
}

func (l *log) call(now time.Time, hits int64) (bool, counter.Count) {
	var counts [1]counter.Count
	ok, err := l.set.Acquire(l.Context(), now, counter.LeaseID{}, now.Add(time.Minute), []int64{hits}, counts[:])
	if err != nil {
		l.Fatalf("Acquire: %v", err)
	}
	return ok, counts[0]
}

// settle gives back some of what an entry took within the unit. What an older one took is gone by the clock of whoever
// settles, and may not be by one that is behind.
func (l *log) settle() {
	if len(l.entries) == 0 {
		return
	}
	e := &l.entries[l.rand.IntN(len(l.entries))]
	if e.settled || l.now.Sub(e.at) > l.unit || !e.taken.Equal(e.at) {
		return // Taken is earlier than at, and may lie in another sub-window, where a clock was behind.
	}
	l.settled++
	e.settled, e.used = true, l.rand.Int64N(e.charged+1)
	s := counter.Settlement{Taken: e.taken, Charges: []counter.Charge{{Key: l.limit.Key, Window: l.limit.Window, Charged: e.charged, Used: e.used}}}
	if err := l.store.Settle(l.Context(), l.now, s); err != nil {
		l.Fatalf("Settle: %v", err)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (e entry) String() string { return fmt.Sprintf("%d of %d at %v", e.used, e.charged, e.at) }
