package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/policy"
)

var lineStart = time.Date(2024, time.February, 14, 12, 0, 0, 0, time.UTC)

func nobodyEntitled(string) bool { return false }

// A naiveLine keeps who waits in one list and looks at all of them each time: what the line must agree with.
type naiveLine struct {
	age   time.Duration
	all   []*waiter            // in the order in which they came
	first map[*waiter]firstAt  // of those who are the first of their holder
	turns map[naiveTurn]number // when the holder was put at the end
	n     int
}

type (
	naiveTurn struct {
		lane   lane
		holder string
	}
	firstAt time.Time
	number  int
)

func newNaiveLine(age time.Duration) *naiveLine {
	return &naiveLine{age: age, first: map[*waiter]firstAt{}, turns: map[naiveTurn]number{}}
}

func turnOf(w *waiter) naiveTurn { return naiveTurn{w.lane, w.holder} }

// firsts lists the first waiter of each turn.
func (l *naiveLine) firsts() []*waiter {
	var out []*waiter
	for _, w := range l.all {
		if !slices.ContainsFunc(out, func(o *waiter) bool { return turnOf(o) == turnOf(w) }) {
			out = append(out, w)
		}
	}
	return out
}

func (l *naiveLine) push(w *waiter) {
	if !slices.ContainsFunc(l.all, func(o *waiter) bool { return turnOf(o) == turnOf(w) }) {
		l.n++
		l.turns[turnOf(w)], l.first[w] = number(l.n), firstAt(w.arrived)
	}
	l.all = append(l.all, w)
}

func (l *naiveLine) next(now time.Time, entitled func(string) bool) *waiter {
	rank := func(w *waiter) int {
		since := time.Time(l.first[w])
		return min(4, w.lane.priority+int(now.Sub(since)/l.age))
	}
	first := l.firsts()
	slices.SortFunc(first, func(a, b *waiter) int {
		ea, eb := a.lane.share != "" && entitled(a.lane.share), b.lane.share != "" && entitled(b.lane.share)
		switch {
		case ea != eb && ea, ea == eb && rank(a) > rank(b):
			return -1
		case ea != eb, rank(a) != rank(b):
			return 1
		}
		if c := time.Time(l.first[a]).Compare(time.Time(l.first[b])); c != 0 {
			return c
		}
		return int(l.turns[turnOf(a)] - l.turns[turnOf(b)])
	})
	if len(first) == 0 {
		return nil
	}
	return first[0]
}

// takeOut takes w out; the next of its turn becomes the first at the time since, or when it came.
func (l *naiveLine) takeOut(w *waiter, since time.Time) {
	_, wasFirst := l.first[w]
	delete(l.first, w)
	l.all = slices.DeleteFunc(l.all, func(o *waiter) bool { return o == w })
	if !wasFirst {
		return
	}
	for _, o := range l.all {
		if turnOf(o) == turnOf(w) {
			l.first[o] = firstAt(later(since, o.arrived))
			return
		}
	}
}

// TestLineAgreesWithANaiveOne lets random waiters come, go and be served, and wants the same one to be next each time.
func TestLineAgreesWithANaiveOne(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	const age = 10 * time.Second
	for range 20 {
		l, naive, now := newLine(), newNaiveLine(age), lineStart
		l.age = age
		for step := range 2000 {
			now = now.Add(time.Duration(r.Int64N(int64(4 * time.Second))))
			entitled := func(tier string) bool { return (step/7)%2 == 0 && tier == "gold" }
			switch w, _ := l.next(now, entitled); {
			case r.IntN(2) == 0:
				w := &waiter{
					holder: fmt.Sprint("h", r.IntN(5)), arrived: now, bytes: r.Int64N(10),
					lane: lane{[]string{"", "gold"}[r.IntN(2)], 1 + r.IntN(4)},
				}
				l.push(w)
				naive.push(w)
			case w != naive.next(now, entitled):
				t.Fatalf("step %d: next is %+v, want %+v", step, w, naive.next(now, entitled))
			case w == nil:
			case r.IntN(3) == 0:
				w = naive.all[r.IntN(len(naive.all))]
				since := time.Time(naive.first[w])
				l.leave(w)
				naive.takeOut(w, since)
			default:
				l.serve(w, now)
				naive.n++
				naive.turns[turnOf(w)] = number(naive.n)
				naive.takeOut(w, now)
			}
			var bytes int64
			for _, w := range naive.all {
				bytes += w.bytes
			}
			if l.n != len(naive.all) || l.bytes != bytes {
				t.Fatalf("step %d: %d wait with %d bytes, want %d with %d", step, l.n, l.bytes, len(naive.all), bytes)
			}
		}
	}
}

// TestNobodyIsPushedBackByWhoSendsMore serves a line in which one key has ten times as many requests as the others, for so
// long that all of them rise.
func TestNobodyIsPushedBackByWhoSendsMore(t *testing.T) {
	t.Parallel()
	for name, every := range map[string]time.Duration{"fast": time.Millisecond, "slow": 7 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLine()
			l.age = 10 * time.Second
			for i := range 2000 {
				l.push(&waiter{holder: "hog", arrived: lineStart, lane: lane{priority: 3}})
				if i < 200 {
					l.push(&waiter{holder: "a", arrived: lineStart, lane: lane{priority: 3}})
					l.push(&waiter{holder: "b", arrived: lineStart, lane: lane{priority: 3}})
				}
			}
			served := map[string]int{}
			for i := range 600 {
				now := lineStart.Add(time.Duration(i) * every)
				w, _ := l.next(now, nobodyEntitled)
				l.serve(w, now)
				served[w.holder]++
				if most, least := max(served["hog"], served["a"], served["b"]), min(served["hog"], served["a"], served["b"]); most-least > 1 {
					t.Fatalf("after %d releases the keys have had %v", i+1, served)
				}
			}
		})
	}
}

// TestWhoWaitsRisesUpToCritical wants a request to be next before one of so many priorities more, once it is old enough.
func TestWhoWaitsRisesUpToCritical(t *testing.T) {
	t.Parallel()
	for _, above := range []int{1, 2, 3} {
		l := newLine()
		l.age = 10 * time.Second
		low := &waiter{holder: "low", arrived: lineStart, lane: lane{priority: 1}}
		l.push(low)
		high := &waiter{holder: "high", arrived: lineStart.Add(time.Duration(above)*l.age - 1), lane: lane{priority: 1 + above}}
		l.push(high)
		if got, _ := l.next(high.arrived, nobodyEntitled); got != high {
			t.Errorf("%d priorities below, it is next before it has waited so many ages", above)
		}
		if got, _ := l.next(high.arrived.Add(1), nobodyEntitled); got != low {
			t.Errorf("%d priorities below, it is not next after it has waited so many ages", above)
		}
	}
	if policy.HighestPriority != 4 {
		t.Error("the priorities have changed: extend this test")
	}
}

// TestALineNeverHoldsMoreThanItMay lets random waiters come and be served. Who is refused has his part, and nobody yields to
// himself.
func TestALineNeverHoldsMoreThanItMay(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	for range 20 {
		l, now := newLine(), lineStart
		l.age = 10 * time.Second
		bounds := &policy.Queue{MaxLength: 1 + r.IntN(40), MaxBodyBytes: 1 + r.Int64N(300)}
		for range 2000 {
			now = now.Add(time.Second)
			if w, _ := l.next(now, nobodyEntitled); w != nil && r.IntN(4) == 0 {
				l.serve(w, now)
				continue
			}
			w := &waiter{holder: fmt.Sprint("h", r.IntN(12)), arrived: now, bytes: r.Int64N(30), lane: lane{priority: 1 + r.IntN(2)}}
			n, bytes, holders := l.share(w)
			yielded, ok := l.admit(w, bounds)
			if !ok && (n+1)*holders <= bounds.MaxLength && (bytes+w.bytes)*int64(holders) <= bounds.MaxBodyBytes {
				t.Fatalf("a holder of %d with %d places and %d bytes was refused %d bytes more, by %+v", holders, n, bytes, w.bytes, bounds)
			}
			if !ok && len(yielded) > 0 {
				t.Fatal("somebody yielded to one who was refused")
			}
			if l.n > bounds.MaxLength || l.bytes > bounds.MaxBodyBytes {
				t.Fatalf("%d wait with %d bytes, want at most %+v", l.n, l.bytes, bounds)
			}
			for _, y := range yielded {
				if turnOf(y) == turnOf(w) {
					t.Fatalf("%s yielded to itself", w.holder)
				}
			}
		}
	}
}

// TestWhoOutranksGetsAPlaceInALineOfMany fills a line with as many keys as it has places, so that an equal part is none.
func TestWhoOutranksGetsAPlaceInALineOfMany(t *testing.T) {
	t.Parallel()
	const places = 50
	bounds := &policy.Queue{MaxLength: places, MaxBodyBytes: 1 << 30}
	come := func(l *line, key string, in lane) (ok bool, lost []*waiter) {
		lost, ok = l.admit(&waiter{holder: key, arrived: lineStart, lane: in}, bounds)
		return ok, lost
	}
	normal := lane{priority: 2}
	for name, test := range map[string]struct {
		lane lane
		want bool
	}{
		"lower": {lane{priority: 1}, false},
		"equal": {normal, false},
		"above": {lane{priority: 3}, true},
		"share": {lane{"gold", 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLine()
			l.age = time.Second
			for i := range places {
				if ok, _ := come(&l, fmt.Sprint("key", i), normal); !ok {
					t.Fatal("there is no room for those who come first")
				}
			}
			ok, lost := come(&l, "late", test.lane)
			if ok != test.want || len(lost) != l.n+map[bool]int{true: 1}[ok]-places || ok && lost[0].holder != fmt.Sprint("key", places-1) {
				t.Errorf("it got in: %t, want %t; %d lost their place, and %d wait", ok, test.want, len(lost), l.n)
			}
			if ok, _ := come(&l, "late", test.lane); ok {
				t.Error("it gets a second place")
			}
		})
	}
}
