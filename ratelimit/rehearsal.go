package ratelimit

import (
	"container/heap"
	"sync"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A rehearsal plays what a capacity would do that is only recorded: who would wait, and who would be refused. Requests are
// let through at once and play their part as long as they really took, from the moment at which they would have been given
// their slot. It counts for itself, so each replica rehearses what it sees alone. It is safe for concurrent use.
type rehearsal struct {
	record func(*actor, time.Time)

	mu       sync.Mutex
	capacity *policy.Capacity
	line     line
	actors   map[counter.LeaseID]*actor
	running  int64
	inUse    map[string]int64 // of running, by tiers that have a share
	events   events
}

// rehearsed is a capacity that is only recorded, and the limit that it stands for.
type rehearsed struct {
	*rehearsal

	limit policy.Limit
}

// An actor is a request in a rehearsal.
type actor struct {
	waiter

	began   time.Time // in truth
	started time.Time // in the rehearsal; zero while it waits
	seen    time.Time // the last sign of life
	length  time.Duration
	ended   bool // in truth, so that length is known
	by      sighting
	most    int64 // the capacity

	due   time.Time // when it ends, gives up, or would have given a sign of life
	index int       // in events
}

// arrive lets a request enter that may wait for the longest time.
func (r *rehearsal) arrive(a *actor, longest time.Duration, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.play(now)
	a.began, a.seen = now, now
	switch q := r.capacity.Queue; {
	case r.running < r.capacity.Max && r.line.n == 0:
		r.actors[a.lease] = a
		heap.Push(&r.events, a)
		r.start(a, now)
	// A request that came before the queue was taken away finds none.
	case q == nil || longest == 0:
		r.record(a, now)
	default:
		yielded, ok := r.line.admit(&a.waiter, q)
		for _, w := range yielded {
			other := r.actors[w.lease]
			r.record(other, now)
			delete(r.actors, w.lease)
			heap.Remove(&r.events, other.index)
		}
		if !ok {
			r.record(a, now)
			return
		}
		r.actors[a.lease] = a
		a.due = now.Add(longest)
		heap.Push(&r.events, a)
	}
}

// end takes note that a request has ended in truth.
func (r *rehearsal) end(lease counter.LeaseID, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.play(now)
	a := r.actors[lease]
	if a == nil || a.ended {
		return
	}
	a.ended, a.length = true, now.Sub(a.began)
	if !a.started.IsZero() {
		r.await(a, a.started.Add(a.length))
		r.play(now)
	}
}

// leave takes a request out that was not let through, for another reason.
func (r *rehearsal) leave(lease counter.LeaseID, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.play(now)
	if a := r.actors[lease]; a != nil {
		r.takeOut(a, now)
	}
}

// alive takes note of a sign of life.
func (r *rehearsal) alive(lease counter.LeaseID, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.actors[lease]; a != nil {
		a.seen = now
	}
	r.play(now)
}

// play lets everything happen up to now, in its order.
func (r *rehearsal) play(now time.Time) {
	for len(r.events) > 0 && !r.events[0].due.After(now) {
		a := r.events[0]
		switch alive := a.seen.Add(SlotExpiry); {
		case a.started.IsZero():
			r.record(a, a.due) // It has waited as long as it may.
			r.takeOut(a, a.due)
		case !a.ended && alive.After(a.due):
			r.await(a, alive)
		default:
			r.takeOut(a, a.due)
		}
	}
}

// await says when it is the actor's turn again.
func (r *rehearsal) await(a *actor, due time.Time) {
	a.due = due
	heap.Fix(&r.events, a.index)
}

func (r *rehearsal) start(a *actor, at time.Time) {
	a.started = at
	r.running++
	r.inUse[a.lane.share]++
	ends := a.seen.Add(SlotExpiry)
	if a.ended {
		ends = at.Add(a.length)
	}
	r.await(a, ends)
}

func (r *rehearsal) takeOut(a *actor, at time.Time) {
	delete(r.actors, a.lease)
	heap.Remove(&r.events, a.index)
	if a.started.IsZero() {
		r.line.leave(&a.waiter)
		return
	}
	r.running--
	r.inUse[a.lane.share]--
	for r.running < r.capacity.Max {
		w, _ := r.line.next(at, func(tier string) bool { return r.inUse[tier] < r.capacity.Shares[tier].Size })
		if w == nil {
			return
		}
		r.line.serve(w, at)
		r.start(r.actors[w.lease], at)
	}
}

// rehearsals are those of all capacities that are only recorded, by the name of their group.
type rehearsals struct {
	byGroup *xsync.Map[string, *rehearsal]
	record  func(*actor, time.Time)
}

func newRehearsals(record func(*actor, time.Time)) *rehearsals {
	return &rehearsals{byGroup: xsync.NewMap[string, *rehearsal](), record: record}
}

// of finds the rehearsal of a capacity, by what the capacity is now.
func (rs *rehearsals) of(c *policy.Capacity) *rehearsal {
	r, _ := rs.byGroup.LoadOrCompute(c.Group, func() (*rehearsal, bool) {
		return &rehearsal{record: rs.record, line: newLine(), actors: map[counter.LeaseID]*actor{}, inUse: map[string]int64{}}, false
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.capacity = c
	r.line.age = time.Second
	if c.Queue != nil {
		r.line.age = c.Queue.Age
	}
	return r
}

// each calls do with every rehearsal: there are few, and a lease does not tell which one it plays in.
func (rs *rehearsals) each(do func(*rehearsal)) {
	if rs.byGroup.Size() == 0 {
		return
	}
	for _, r := range rs.byGroup.All() {
		do(r)
	}
}

// events is a heap of all actors; the one that is due first comes first.
type events []*actor

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].due.Before(e[j].due) }

func (e events) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].index, e[j].index = i, j
}

// Push implements heap.Interface.
func (e *events) Push(x any) {
	a := x.(*actor) //nolint:forcetypeassert // Only this file calls it.
	a.index = len(*e)
	*e = append(*e, a)
}

// Pop implements heap.Interface.
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	return x
}
