package controllers

import (
	"container/list"
	"sync"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	"github.com/tierkeeper/tierkeeper/policy"
)

// urgency is how soon the status of an object should be looked at; the most urgent comes first.
type urgency int

const (
	justChanged urgency = iota // somebody waits for it
	affected                   // by a change elsewhere, or looked at in vain before
	looked                     // to see whether status is still right
	urgencies
)

// patience is how many turns objects that wait leave to more urgent ones before they have one themselves.
const patience = 4

// A queue has the objects whose status is to be looked at, each once. It is safe for concurrent use.
type queue struct {
	workqueue.TypedRateLimitingInterface[policy.Object]

	turns *turns
}

func newQueue(c clock.WithTicker) *queue {
	t := newTurns()
	ordered := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[policy.Object]{Name: "status", Clock: c, Queue: t})
	delaying := workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[policy.Object]{Name: "status", Clock: c, Queue: ordered})
	limiter := workqueue.DefaultTypedItemBasedRateLimiter[policy.Object]()
	return &queue{workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[policy.Object]{DelayingQueue: delaying}), t}
}

// add has objects looked at. Those that are added otherwise are affected.
func (q *queue) add(u urgency, objects ...policy.Object) {
	for _, o := range objects {
		q.turns.want(o, u)
		q.Add(o)
	}
}

// turns decides who is next of the objects that wait: the most urgent, but for the patience of the others. Among those that are
// equally urgent namespaces take turns, so that no tenant holds up others by changing more; what has no namespace is one more
// tenant. It is the order of a work queue, which sees to it that each object waits once. It is safe for concurrent use.
type turns struct {
	mu     sync.Mutex
	wanted map[policy.Object]urgency // of those that the work queue is about to push or touch
	places map[policy.Object]place   // of those that wait
	lanes  [urgencies]lane
}

// place is where an object waits.
type place struct {
	urgency urgency
	at      *list.Element // in the line of its namespace
}

// A lane has the objects that are equally urgent.
type lane struct {
	lines  list.List                // of objects of one namespace each, in the order of their turns
	of     map[string]*list.Element // where the line of a namespace stands
	passed int                      // turns that went to others since the last one
}

var _ workqueue.Queue[policy.Object] = (*turns)(nil)

func newTurns() *turns {
	t := &turns{wanted: map[policy.Object]urgency{}, places: map[policy.Object]place{}}
	for i := range t.lanes {
		t.lanes[i].of = map[string]*list.Element{}
	}
	return t
}

// want says how urgent an object is that is added next.
func (t *turns) want(o policy.Object, u urgency) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before, wanted := t.wanted[o]; !wanted || u < before {
		t.wanted[o] = u
	}
}

// Push implements workqueue.Queue.
func (t *turns) Push(o policy.Object) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(o, t.take(o))
}

// Touch implements workqueue.Queue: an object that waits may have become more urgent.
func (t *turns) Touch(o policy.Object) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if u := t.take(o); u < t.places[o].urgency {
		t.remove(o)
		t.put(o, u)
	}
}

// Len implements workqueue.Queue.
func (t *turns) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.places)
}

// Pop implements workqueue.Queue.
func (t *turns) Pop() policy.Object {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.next()
	line := l.lines.Front()
	l.lines.MoveToBack(line)
	o := line.Value.(*list.List).Front().Value.(policy.Object)
	t.remove(o)
	return o
}

// next is the lane whose turn it is. There must be one in which somebody waits.
func (t *turns) next() (next *lane) {
	for i := range t.lanes {
		l := &t.lanes[i]
		if l.lines.Len() == 0 {
			continue
		}
		l.passed++
		if next == nil || l.passed > patience {
			next = l
		}
	}
	next.passed = 0
	return next
}

func (t *turns) take(o policy.Object) urgency {
	u, wanted := t.wanted[o]
	if !wanted {
		return affected
	}
	delete(t.wanted, o)
	return u
}

func (t *turns) put(o policy.Object, u urgency) {
	l := &t.lanes[u]
	line := l.of[o.Namespace]
	if line == nil {
		line = l.lines.PushBack(list.New())
		l.of[o.Namespace] = line
	}
	t.places[o] = place{u, line.Value.(*list.List).PushBack(o)}
}

func (t *turns) remove(o policy.Object) {
	p := t.places[o]
	delete(t.places, o)
	l := &t.lanes[p.urgency]
	line := l.of[o.Namespace]
	objects := line.Value.(*list.List)
	objects.Remove(p.at)
	if objects.Len() == 0 {
		l.lines.Remove(line)
		delete(l.of, o.Namespace)
	}
}
