package ratelimit

import (
	"container/heap"
	"container/list"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A waiter is a request that waits for a slot of a capacity.
type waiter struct {
	lease   counter.LeaseID
	holder  string // whose turn it waits for
	lane    lane
	arrived time.Time
	bytes   int64 // of its body, which Envoy holds
	slot    slot
	store   counter.Store // that of its gateway
	served  chan struct{} // closed when its wait is over by no doing of its own
	free    bool          // it goes on without a slot: there is no capacity any more
	lost    outcome       // why it has no slot, though its wait is over; empty: it has one

	turn  *turn
	place *list.Element // among turn.waiting; nil when it is not in the line
}

// A slot is the counters of a place among the requests under way.
type slot struct {
	capacity counter.Key
	share    counter.Key // of the waiter's tier; zero if it has none
}

// A lane is the waiters of one priority, those of a tier with a reserved share apart from all others.
type lane struct {
	share    string // the tier, if it has a share; else empty
	priority int
}

// A line is all that wait for one capacity, and decides who goes next. It knows no clock and takes no locks.
//
// Tiers whose reserved share is not used up go first. Then goes the highest priority, which rises by one for each age that
// the first request of a holder has waited. Among equals the holder goes whose last turn is longest ago, so that nobody
// pushes others back by sending more. Age counts from when a request became the first of its holder, or else whoever sends
// most would have the oldest requests, and rise above the others by that.
type line struct {
	age   time.Duration
	lanes map[lane]*turns
	n     int
	bytes int64
	order uint64 // of turns, where times are equal
}

func newLine() line { return line{lanes: map[lane]*turns{}} }

// A turn is the waiters of one holder in a lane, the first one first.
type turn struct {
	turns   *turns
	holder  string
	since   time.Time // when the first waiter became the first
	order   uint64
	waiting list.List
	bytes   int64 // of all that wait
	index   int   // in turns.heap
}

// turns are the holders of a lane; heap[0] is the one who is next.
type turns struct {
	lane     lane
	heap     []*turn
	byHolder map[string]*turn
}

// admit puts a waiter into the line if there is room for it, and lists who has lost his place to it. Where there is no room
// each holder that waits still gets an equal part of it, or one could keep all others out: who has less takes the place of the
// last one of whoever has most. Where even that is less than one place, who has none takes the place of one whom he outranks.
func (l *line) admit(w *waiter, bounds *policy.Queue) (yielded []*waiter, ok bool) {
	long := l.n >= bounds.MaxLength
	large := func() bool { return l.bytes+w.bytes > bounds.MaxBodyBytes }
	if long || large() {
		n, bytes, holders := l.share(w)
		tooMany := long && n+1 > bounds.MaxLength/holders
		if tooMany && n == 0 {
			tooMany = !w.lane.outranks(l.most(placesOf).turns.lane)
		}
		if tooMany || large() && bytes+w.bytes > bounds.MaxBodyBytes/int64(holders) {
			return nil, false
		}
	}
	yield := func(of func(*turn) int64) {
		last := l.most(of).waiting.Back().Value.(*waiter) //nolint:forcetypeassert // The list holds nothing else.
		l.leave(last)
		yielded = append(yielded, last)
	}
	for l.n >= bounds.MaxLength {
		yield(placesOf)
	}
	for large() {
		yield(bytesOf)
	}
	l.push(w)
	return yielded, true
}

func placesOf(t *turn) int64 { return int64(t.waiting.Len()) }
func bytesOf(t *turn) int64  { return t.bytes }

// share is what the holder of a waiter has in the line, and how many holders there are with it.
func (l *line) share(w *waiter) (n int, bytes int64, holders int) {
	for _, ts := range l.lanes {
		holders += len(ts.heap)
	}
	if ts := l.lanes[w.lane]; ts != nil {
		if t := ts.byHolder[w.holder]; t != nil {
			return t.waiting.Len(), t.bytes, holders
		}
	}
	return 0, 0, holders + 1
}

// most is the turn that has most of something; of equals the one that the others outrank, and of those the last one. It looks
// at all of them: only those who are below their share ask.
func (l *line) most(of func(*turn) int64) (most *turn) {
	for lane, ts := range l.lanes {
		for _, t := range ts.heap {
			switch {
			case most == nil, of(t) > of(most):
			case of(t) < of(most), lane.outranks(most.turns.lane), !most.turns.lane.outranks(lane) && t.before(most):
				continue
			}
			most = t
		}
	}
	return most
}

// outranks reports whether requests of the lane go before those of another, were all of one age.
func (a lane) outranks(b lane) bool {
	if (a.share != "") != (b.share != "") {
		return a.share != ""
	}
	return a.priority > b.priority
}

// push puts a waiter at the end of its holder's turn.
func (l *line) push(w *waiter) {
	ts := l.lanes[w.lane]
	if ts == nil {
		ts = &turns{lane: w.lane, byHolder: map[string]*turn{}}
		l.lanes[w.lane] = ts
	}
	t := ts.byHolder[w.holder]
	if t == nil {
		l.order++
		t = &turn{turns: ts, holder: w.holder, since: w.arrived, order: l.order}
		ts.byHolder[w.holder] = t
		heap.Push(ts, t)
	}
	w.turn, w.place = t, t.waiting.PushBack(w)
	t.bytes += w.bytes
	l.n++
	l.bytes += w.bytes
}

// next is the waiter that gets the next slot and its rank, nil if nobody waits. Entitled says whether a tier has not used up its
// share.
func (l *line) next(now time.Time, entitled func(tier string) bool) (*waiter, int) {
	var best *turn
	var bestRank int
	for lane, ts := range l.lanes {
		t := ts.heap[0] // Where nobody waits there is no lane.
		rank := l.rank(lane, t, now)
		if lane.share != "" && entitled(lane.share) {
			rank += policy.HighestPriority
		}
		if best == nil || rank > bestRank || rank == bestRank && t.before(best) {
			best, bestRank = t, rank
		}
	}
	if best == nil {
		return nil, 0
	}
	return best.waiting.Front().Value.(*waiter), bestRank //nolint:forcetypeassert // The list holds nothing else.
}

// highestRank is that of Critical on a share that is not used up. The lowest is 1.
const highestRank = 2 * policy.HighestPriority

func (l *line) rank(lane lane, t *turn, now time.Time) int {
	risen := int(max(now.Sub(t.since), 0) / l.age)
	return min(lane.priority+risen, policy.HighestPriority)
}

// serve takes a waiter out whose turn it was: its holder's next turn comes after everybody else's.
func (l *line) serve(w *waiter, now time.Time) {
	t := w.turn
	l.order++
	t.order = l.order
	l.takeOut(w, now)
}

// leave takes a waiter out that waits no longer. Its holder keeps the turn.
func (l *line) leave(w *waiter) {
	l.takeOut(w, w.turn.since)
}

func (l *line) takeOut(w *waiter, since time.Time) {
	t := w.turn
	first := t.waiting.Front() == w.place
	t.waiting.Remove(w.place)
	w.turn, w.place = nil, nil
	t.bytes -= w.bytes
	l.n--
	l.bytes -= w.bytes
	switch {
	case t.waiting.Len() == 0:
		heap.Remove(t.turns, t.index)
		delete(t.turns.byHolder, t.holder)
		if len(t.turns.heap) == 0 {
			delete(l.lanes, w.lane)
		}
	case first:
		t.since = later(since, t.waiting.Front().Value.(*waiter).arrived) //nolint:forcetypeassert // The list holds nothing else.
		heap.Fix(t.turns, t.index)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// before orders turns by how long ago they were had.
func (t *turn) before(other *turn) bool {
	if !t.since.Equal(other.since) {
		return t.since.Before(other.since)
	}
	return t.order < other.order
}

// Len and the others make turns a heap.
func (ts *turns) Len() int { return len(ts.heap) }

func (ts *turns) Less(i, j int) bool { return ts.heap[i].before(ts.heap[j]) }

func (ts *turns) Swap(i, j int) {
	ts.heap[i], ts.heap[j] = ts.heap[j], ts.heap[i]
	ts.heap[i].index, ts.heap[j].index = i, j
}

// Push implements heap.Interface.
func (ts *turns) Push(x any) {
	t := x.(*turn) //nolint:forcetypeassert // Only push calls it.
	t.index = len(ts.heap)
	ts.heap = append(ts.heap, t)
}

// Pop implements heap.Interface.
func (ts *turns) Pop() any {
	last := len(ts.heap) - 1
	t := ts.heap[last]
	ts.heap[last] = nil
	ts.heap = ts.heap[:last]
	return t
}
