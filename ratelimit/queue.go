package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

const (
	// lookAgain is after how long at most a queue looks for slots of which nobody told it: of leases that have expired, and of
	// requests that ended elsewhere.
	lookAgain = 50 * time.Millisecond
	// burst and pace bound how fast slots are given out that become free at once: some thousand requests that are let go in one
	// moment find more connections to make than a backend, or Envoy, can bear.
	burst = 50
	pace  = 10 * time.Millisecond
	// unreadBody is what a body counts for that Envoy does not read before it asks: it holds about a MiB for the request and
	// another for its connection.
	unreadBody = 2 << 20
)

// An outcome is how a wait ended.
type outcome string

const (
	released outcome = "released" // with a slot
	timedOut outcome = "timeout"
	full     outcome = "full" // without a wait, or with one whose place another key got that had fewer
	gone     outcome = "gone" // the client went away
	refused  outcome = "refused"
)

// A queue holds those who wait for one capacity, and gives out its slots: the slots are counted in the store, which other
// replicas share, and of those who wait there it knows what they bid. It is safe for concurrent use.
type queue struct {
	group   string
	key     counter.Key // of the slots
	bidKeys [highestRank + 1]counter.Key
	leases  *leases
	store   counter.Store
	clock   func() time.Time
	stalls  *stalls
	log     *slog.Logger
	told    sparing[string]
	metrics *queueMetrics

	wake    chan struct{}
	waiting atomic.Int64 // line.n, for those who do not wait for mu
	others  others

	mu     sync.Mutex
	scene  scene
	line   line
	bid    bid
	active bool          // a goroutine gives out slots
	last   time.Time     // when a slot was given out while others waited
	gap    time.Duration // between two of them, on average; 0: not known
}

// update takes over what the capacity is now. Where there is none any more all waiters go on without a slot.
func (q *queue) update(c *policy.Capacity) {
	q.mu.Lock()
	q.scene = q.newScene(c)
	if c != nil && c.Queue != nil {
		q.line.age = c.Queue.Age
	}
	q.mu.Unlock()
	q.signal()
}

// signal says that a slot may be free.
func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// join puts a waiter into the line, if the queue has room for it or others must make some.
func (q *queue) join(ctx context.Context, w *waiter, bounds *policy.Queue) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.line.n == 0 {
		q.last = time.Time{}
	}
	yielded, ok := q.line.admit(w, bounds)
	if !ok {
		return false
	}
	for _, other := range yielded {
		other.lost = full
		close(other.served)
	}
	q.waiting.Store(int64(q.line.n))
	if !q.active {
		q.active = true
		go q.giveOut(context.WithoutCancel(ctx))
	}
	return true
}

// leave takes a waiter out, and reports false if its wait is over already.
func (q *queue) leave(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place == nil {
		return false
	}
	q.line.leave(w)
	q.waiting.Store(int64(q.line.n))
	return true
}

// wait returns when w has its slot, when it has waited for the longest time, when it must yield, or when ctx ends. Alive is
// called every heartbeat meanwhile.
func (q *queue) wait(ctx context.Context, w *waiter, bounds *policy.Queue, longest time.Duration, alive func()) outcome {
	if !q.join(ctx, w, bounds) {
		return full
	}
	q.signal() // A slot may have become free before w was in the line.
	late, beat := time.NewTimer(longest), time.NewTicker(descriptor.Heartbeat)
	defer late.Stop()
	defer beat.Stop()
	for {
		select {
		case <-w.served:
			return w.ended()
		case <-ctx.Done():
			if q.leave(w) {
				return gone
			}
			return w.ended() // If the slot is there, it is for the caller to give it back.
		case <-late.C:
			if q.leave(w) {
				return timedOut
			}
			return w.ended()
		case <-beat.C:
			alive()
		}
	}
}

// ended is how a wait ended by no doing of the waiter.
func (w *waiter) ended() outcome {
	return cmp.Or(w.lost, released)
}

// giveOut gives slots to waiters until nobody waits.
func (q *queue) giveOut(ctx context.Context) {
	look := time.NewTimer(rand.N(lookAgain)) //nolint:gosec // See untilLook.
	defer look.Stop()
	breath := time.NewTimer(0)
	defer breath.Stop()
	for {
		told := true
		select {
		case <-q.wake:
		case <-look.C:
			told = false
			look.Reset(q.untilLook())
		}
		for q.round(ctx, told) == burst {
			breath.Reset(pace)
			<-breath.C
		}
		if q.rest() {
			return
		}
	}
}

// untilLook differs from time to time, so that no replica is always the first to look.
func (q *queue) untilLook() time.Duration {
	return lookAgain/2 + rand.N(lookAgain/2) //nolint:gosec // Nobody gains by guessing it.
}

// rest reports that nobody waits: the next one to join starts anew.
func (q *queue) rest() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.active = q.line.n > 0 || q.bid.rank > 0
	return !q.active
}

// round gives out the slots that are free, if it is for this replica to do so, and returns how many. Told says that one was freed
// here, or that somebody came. While callers may be gone without a word it gives out none: requests under way may have had no chance
// to keep theirs.
func (q *queue) round(ctx context.Context, told bool) (n int) {
	if q.stalls.justWokeUp(q.clock()) {
		return 0
	}
	rank := 0
	if q.waiting.Load() > 0 {
		v, err := q.look(ctx)
		if err != nil {
			q.complain(ctx, "could not look for slots for requests that wait", err)
			return 0
		}
		n, rank = q.serveAll(ctx, &v, told)
	}
	if err := q.tell(ctx, rank); err != nil {
		q.complain(ctx, "could not tell other replicas of requests that wait", err)
	}
	return n
}

// serveAll gives out what it sees, and returns how many slots that were, and the rank of who is next.
func (q *queue) serveAll(ctx context.Context, v *view, told bool) (n, rank int) {
	for {
		var w *waiter
		w, rank = q.next(v)
		if w == nil || n == burst || int64(n) >= v.free || !v.turn(rank, told) {
			return n, rank
		}
		ok, err := q.take(ctx, w)
		if errors.Is(err, counter.ErrOut) {
			q.dismiss(w)
			continue
		}
		if err != nil {
			q.complain(ctx, "could not take a slot for a request that waits", err)
		}
		if !ok {
			return n, rank
		}
		n++
		if !q.serve(w) {
			q.giveBack(ctx, w)
		} else if v.inUse != nil {
			v.inUse[w.lane.share]++
		}
	}
}

// next is whose turn it is, and of which rank.
func (q *queue) next(v *view) (*waiter, int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.line.next(q.clock(), v.entitled)
}

// take takes a slot for w by what the capacity is now, which may differ from what it was when w came.
func (q *queue) take(ctx context.Context, w *waiter) (bool, error) {
	q.mu.Lock()
	capacity := q.scene.capacity
	q.mu.Unlock()
	if capacity == nil {
		w.free = true
		return true, nil
	}
	limits := []counter.Limit{{Key: w.slot.capacity, Window: counter.InUse, Max: capacity.Max}}
	if w.slot.share != (counter.Key{}) {
		limits = append(limits, counter.Limit{Key: w.slot.share, Window: counter.InUse, Max: math.MaxInt64})
	}
	hits, counts := []int64{1, 1}, make([]counter.Count, len(limits))
	now := q.clock()
	return w.store.Open(limits).Acquire(ctx, now, w.lease, now.Add(SlotExpiry), hits[:len(limits)], counts)
}

// dismiss ends the wait of one whose gateway refuses requests while the store is out.
func (q *queue) dismiss(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place == nil {
		return
	}
	q.line.leave(w)
	q.waiting.Store(int64(q.line.n))
	w.lost = refused
	close(w.served)
}

// serve tells w that it has its slot, and reports false if it has left meanwhile.
func (q *queue) serve(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place == nil {
		return false
	}
	now := q.clock()
	q.line.serve(w, now)
	q.waiting.Store(int64(q.line.n))
	if !q.last.IsZero() {
		if gap := now.Sub(q.last); q.gap == 0 {
			q.gap = gap
		} else {
			q.gap += (gap - q.gap) / 8
		}
	}
	q.last = now
	close(w.served)
	return true
}

// giveBack frees the slot of a waiter that left while it was taken.
func (q *queue) giveBack(ctx context.Context, w *waiter) {
	if w.free {
		return
	}
	s := counter.Settlement{Lease: w.lease, Taken: w.arrived, Charges: []counter.Charge{{Key: w.slot.capacity, Window: counter.InUse}}}
	if w.slot.share != (counter.Key{}) {
		s.Charges = append(s.Charges, counter.Charge{Key: w.slot.share, Window: counter.InUse})
	}
	if err := w.store.Settle(ctx, q.clock(), s); err != nil {
		q.complain(ctx, "could not give back a slot; it expires by itself", err)
	}
}

// complain tells of a store that fails, which is tried again many times a second, once a minute.
func (q *queue) complain(ctx context.Context, what string, err error) {
	if q.told.tell(what, q.clock()) {
		q.log.ErrorContext(ctx, what, "modelLimit", q.group, "error", err, "next", "told at most once a minute")
	}
}

// retryAfter is in how many seconds a request that was not let in might get a slot, if all who wait go first: at the pace of
// the last ones, from 1 to longWait.
func (q *queue) retryAfter() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gap == 0 {
		return retryService
	}
	return min(ceilSeconds(q.gap*time.Duration(q.line.n+1)), longWait)
}

// queues are those of all capacities, by the key of their slots. They outlive tables, because those who wait do.
type queues struct {
	byKey   *xsync.Map[counter.Key, *queue]
	now     atomic.Pointer[map[string]*policy.Capacity] // what all capacities are now, by the name of their group
	metrics *queueMetrics
}

func newQueues() *queues {
	qs := &queues{byKey: xsync.NewMap[counter.Key, *queue](), metrics: newQueueMetrics()}
	qs.now.Store(&map[string]*policy.Capacity{})
	return qs
}

// of finds the queue of a capacity, and makes it where there is none. It goes by what the capacity is now: whoever asks may
// do so by a table that another has replaced meanwhile.
func (qs *queues) of(c *policy.Capacity, key counter.Key, l *Limiter) *queue {
	q, _ := qs.byKey.LoadOrCompute(key, func() (*queue, bool) {
		q := &queue{
			group: c.Group, key: key, bidKeys: bidKeys(c.Group), leases: l.leases, store: l.store, clock: l.clock, stalls: &l.stalls, log: l.log, metrics: qs.metrics,
			wake: make(chan struct{}, 1), line: newLine(),
		}
		q.line.age = c.Queue.Age
		q.update((*qs.now.Load())[c.Group])
		return q, false
	})
	return q
}

// update takes over what all capacities are now, and forgets those that are gone and for which nobody waits.
func (qs *queues) update(all map[string]*policy.Capacity) {
	qs.now.Store(&all)
	for key, q := range qs.byKey.All() {
		q.update(all[q.group])
		if all[q.group] == nil && q.waiting.Load() == 0 {
			qs.byKey.Delete(key)
		}
	}
}

// freed says that slots of these counters may be free.
func (qs *queues) freed(charges []counter.Charge) {
	if qs.byKey.Size() == 0 {
		return
	}
	for _, c := range charges {
		if c.Window != counter.InUse {
			continue
		}
		if q, ok := qs.byKey.Load(c.Key); ok {
			q.signal()
		}
	}
}
