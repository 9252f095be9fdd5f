package ratelimit

import (
	"context"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A store takes as many limits at once as policy allows.
var _ = [1]struct{}{}[counter.MaxLimits-policy.MaxLimits]

// A plan is the counters of one caller for requests of one kind: first those of limits that are enforced, then those of limits
// that are only recorded.
type plan struct {
	*shape

	keys       []counter.Key // of the counters
	set        counter.Set   // of the enforced ones; nil if there are more limits than a lease can carry
	terms      *policy.Terms // of the holder
	expires    time.Time     // when the caller's key does; zero: never
	noted      atomic.Uint64 // see activity
	shadow     counter.Set   // of those that are only recorded; nil if there are none
	capacity   *capacity     // nil: nothing is waited for
	rehearsed  []rehearsed   // capacities that are only recorded: the group's own, and its parent's
	holder     *policy.Holder
	credential *policy.Credential // nil: a client on an assigned tier
	subject    counter.Subject    // nobody where nobody is blocked
}

// A capacity is what a request of a plan may wait for.
type capacity struct {
	*policy.Capacity

	queue   *queue        // nil: nobody waits
	longest time.Duration // that a request waits; 0: it does not
	limit   int           // its place among plan.limits
	share   int           // the place of the counter of the tier's share; -1 if it has none
	slot    slot
	lane    lane
}

func (e *epoch) newPlan(k *kind, c *caller) *plan {
	resolution := e.table.Resolve(k.gateway, c.holder, k.model, k.resource)
	p := &plan{holder: c.holder, terms: c.holder.Terms, credential: c.credential}
	if c.credential != nil {
		p.expires = c.credential.Expires()
	}
	if k.guard != nil {
		p.subject = k.guard.ofHolder(c.holder)
	}
	var limits []policy.Limit
	for _, l := range resolution.Limits {
		switch {
		case l.Shadow:
		case l.Capacity != nil:
			limits = e.addCapacity(p, limits, l)
		default:
			limits = append(limits, l)
		}
	}
	for _, l := range resolution.Limits {
		switch {
		case !l.Shadow:
		case l.Capacity != nil:
			p.rehearsed = append(p.rehearsed, rehearsed{e.limiter.rehearsals.of(l.Capacity), l})
		default:
			limits = append(limits, l)
		}
	}
	p.shape = k.shape(limits, &resolution)
	if len(limits) > counter.MaxLimits {
		return p
	}
	for _, l := range limits {
		p.keys = append(p.keys, keyOf(l))
	}
	store, counters := e.limiter.stores(k.gateway.StoreOut), p.counters()
	p.set = store.Open(counters[:p.enforced])
	if p.enforced < len(counters) {
		p.shadow = store.Open(counters[p.enforced:])
	}
	return p
}

// counters are those of the plan with their limits, as a store knows them.
func (p *plan) counters() []counter.Limit {
	counters := make([]counter.Limit, len(p.keys))
	for i, key := range p.keys {
		counters[i] = counter.Limit{Key: key, Window: p.rules[i].window, Max: p.rules[i].max}
	}
	return counters
}

// addCapacity adds the limit, and a counter for the share of the holder's tier.
func (e *epoch) addCapacity(p *plan, limits []policy.Limit, l policy.Limit) []policy.Limit {
	h := p.holder
	c := &capacity{Capacity: l.Capacity, longest: l.Capacity.MaxWait(h), limit: len(limits), share: -1, lane: lane{priority: h.Priority}}
	c.slot.capacity = keyOf(l)
	limits = append(limits, l)
	if share, ok := l.Capacity.Shares[h.Tier]; ok {
		held := shareLimit(l.Capacity, share)
		held.Status, held.Origin = l.Status, l.Origin
		c.share, c.lane.share, c.slot.share = len(limits), h.Tier, keyOf(held)
		limits = append(limits, held)
	}
	if c.Queue != nil {
		c.queue = e.limiter.queues.of(l.Capacity, c.slot.capacity, e.limiter)
	}
	p.capacity = c
	return limits
}

// shareLimit refuses nothing: it counts the requests under way of a tier that has a share of the capacity.
func shareLimit(c *policy.Capacity, s policy.Share) policy.Limit {
	return policy.Limit{
		Scope: policy.ScopeModelShared, Pair: policy.Pair{Metric: policy.ConcurrentRequests}, Max: math.MaxInt64,
		Counter: s.Counter, Subject: c.Group, Entry: s.Entry, Capacity: c,
	}
}

// keyOf is the name in a store of what the limit counts. All that one holder, one user or one model group counts has one
// subject.
func keyOf(l policy.Limit) counter.Key {
	subject := subjectKinds[sharers(l.Scope)] + " " + strconv.Quote(l.Subject)
	return counter.NewKey(subject, subject+" "+l.Scope.String()+" "+strconv.Quote(l.Entry), l.Counter)
}

// subjectKinds are by how many share the counters of a subject.
var subjectKinds = [...]string{"key", "user", "model group"}

// windowOf is what the limit's counter counts in.
func windowOf(l policy.Limit) counter.Window { return windows[span{l.Pair.Per, l.Algorithm}] }

type span struct {
	per       policy.Per
	algorithm policy.Algorithm
}

// windows has every span that the API allows.
var windows = map[span]counter.Window{
	{policy.NoPer, policy.FixedWindow}:    counter.InUse,
	{policy.Second, policy.FixedWindow}:   counter.Second,
	{policy.Minute, policy.FixedWindow}:   counter.Minute,
	{policy.Hour, policy.FixedWindow}:     counter.Hour,
	{policy.Day, policy.FixedWindow}:      counter.Day,
	{policy.Month, policy.FixedWindow}:    counter.Month,
	{policy.Second, policy.SlidingWindow}: counter.SlidingSecond,
	{policy.Minute, policy.SlidingWindow}: counter.SlidingMinute,
	{policy.Hour, policy.SlidingWindow}:   counter.SlidingHour,
}

// taken is what one request asked for and found, by index of the plan's limits.
type taken struct {
	amounts amounts
	hits    [counter.MaxLimits]int64
	counts  [counter.MaxLimits]counter.Count
	charged int // how many of the plan's limits hits were taken from: the enforced ones, or all
}

// takens keeps what would be over a kilobyte of garbage for each request.
var takens = sync.Pool{New: func() any { return new(taken) }}

// ask sets what the request would take of each limit.
func (p *plan) ask(r *descriptor.Reserve, t *taken) {
	t.amounts, t.charged = p.estimate(r), p.enforced
	for i := range p.rules {
		rule := &p.rules[i]
		t.hits[i] = clamp(t.amounts.of(rule.metric), rule.most)
	}
}

func (p *plan) acquire(ctx context.Context, now time.Time, id counter.LeaseID, t *taken) (bool, error) {
	return p.set.Acquire(ctx, now, id, now.Add(SlotExpiry), t.hits[:p.enforced], t.counts[:p.enforced])
}

// acquireShadow takes what is only recorded, all of it or nothing, as if it were enforced.
func (p *plan) acquireShadow(ctx context.Context, now time.Time, id counter.LeaseID, t *taken) (bool, error) {
	ok, err := p.shadow.Acquire(ctx, now, id, now.Add(SlotExpiry), t.hits[p.enforced:len(p.limits)], t.counts[p.enforced:len(p.limits)])
	if ok {
		t.charged = len(p.limits)
	}
	return ok, err
}

// slots sets whether the request takes a slot of the capacity.
func (c *capacity) slots(t *taken, n int64) {
	t.hits[c.limit] = n
	if c.share >= 0 {
		t.hits[c.share] = n
	}
}

// clamp lets a request that could never fit pass in an empty window; it is settled with the truth. A limit of 0 is not
// there to be passed, so nothing is clamped to 0.
func clamp(amount, most int64) int64 {
	if amount <= most {
		return amount
	}
	return max(most, 1)
}

// worst is the index of the limit that a denial speaks of, among those from first up to last: of those that refused, the
// rate that resets last, which is when all of them let the request pass if nothing else comes, and concurrency only if no rate
// refused. It is -1 if none refused.
func (p *plan) worst(t *taken, first, last int) int {
	worst := -1
	for i := first; i < last; i++ {
		if (counter.Limit{Max: p.rules[i].max}).Fits(t.counts[i].Used, t.hits[i]) {
			continue
		}
		if worst < 0 || t.counts[i].Reset.After(t.counts[worst].Reset) {
			worst = i // The Reset of a concurrency limit is the zero time, before any other.
		}
	}
	return worst
}

// refuser is the index of the enforced limit that refused. A capacity is named only where nothing else refused.
func (p *plan) refuser(t *taken) int {
	if p.capacity == nil || t.hits[p.capacity.limit] == 0 {
		return p.worst(t, 0, p.enforced)
	}
	n := t.hits[p.capacity.limit]
	p.capacity.slots(t, 0)
	worst := p.worst(t, 0, p.enforced)
	p.capacity.slots(t, n)
	if worst < 0 {
		return p.capacity.limit
	}
	return worst
}
