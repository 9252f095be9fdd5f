package ratelimit

import (
	"context"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// What an epoch keeps is bounded: what is dropped is made again when it is asked for. Strangers come and go, and anybody can
// be one.
const (
	maxPlans     = 1 << 18
	maxStrangers = 1 << 14
)

// A store takes as many limits at once as policy allows.
var _ = [1]struct{}{}[counter.MaxLimits-policy.MaxLimits]

// An epoch is a table and what was worked out from it. Resolving limits and finding their counters is done once for each
// gateway, holder, model and resource that the table tells apart.
type epoch struct {
	table     *policy.Table
	limiter   *Limiter
	plans     *xsync.Map[planKey, *plan]
	strangers *xsync.Map[strangerKey, *policy.Holder]
	guards    guards
	// quotaNames has the names of all quotas by their ids in subjects. It is made when it is first asked for.
	quotaNames func() map[[16]byte]string
}

type planKey struct {
	gateway         *policy.Gateway
	holder          *policy.Holder
	model, resource string
}

type strangerKey struct {
	tier    *policy.Assigned
	address netip.Addr
}

func newEpoch(t *policy.Table, l *Limiter) *epoch {
	return &epoch{
		table: t, limiter: l, guards: l.newGuards(t),
		plans: xsync.NewMap[planKey, *plan](), strangers: xsync.NewMap[strangerKey, *policy.Holder](),
		quotaNames: sync.OnceValue(func() map[[16]byte]string {
			names := map[[16]byte]string{}
			for _, name := range t.Quotas() {
				names[quotaID(name.String())] = name.String()
			}
			return names
		}),
	}
}

// stranger is the holder for requests from an address on an assigned tier.
func (e *epoch) stranger(tier *policy.Assigned, address netip.Addr) *policy.Holder {
	key := strangerKey{tier, policy.ClientNetwork(address)}
	if h, ok := e.strangers.Load(key); ok {
		return h
	}
	if e.strangers.Size() > maxStrangers {
		e.strangers.Clear()
	}
	h, _ := e.strangers.LoadOrCompute(key, func() (*policy.Holder, bool) { return tier.Holder(address), false })
	return h
}

// A plan is the limits of one kind of request and their counters: first those that are enforced, then those that are only
// recorded.
type plan struct {
	limits        []policy.Limit
	counters      []counter.Limit
	caps          []int64     // the most that one request may take of each
	enforced      int         // how many of limits are
	set           counter.Set // of the enforced ones; nil if there are more limits than a lease can carry
	shadow        counter.Set // of the others; nil if there are none
	capacity      *capacity   // nil: nothing is waited for
	rehearsed     []rehearsed // capacities that are only recorded: the group's own, and its parent's
	defaultOutput int64
	defaultImage  int64
	cachedPercent int64
	ratio         *ratio
	guard         *guard // nil: nobody is blocked at the gateway
	subject       counter.Subject
	quota         policy.Name   // whose requests they are; the zero Name for a client on an assigned tier
	noted         atomic.Uint64 // see activity
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

func (e *epoch) plan(g *policy.Gateway, h *policy.Holder, model, resource string) *plan {
	key := planKey{g, h, e.table.Canonical(model), resource}
	if p, ok := e.plans.Load(key); ok {
		return p
	}
	if e.plans.Size() > maxPlans {
		e.plans.Clear()
	}
	// What is kept must not keep the rest of the call, which has an API key.
	key.model, key.resource, model = strings.Clone(key.model), strings.Clone(resource), strings.Clone(model)
	p, _ := e.plans.LoadOrCompute(key, func() (*plan, bool) { return e.newPlan(key, model), false })
	return p
}

func (e *epoch) newPlan(k planKey, model string) *plan {
	resolution := e.table.Resolve(k.gateway, k.holder, model, k.resource)
	p := &plan{
		defaultOutput: resolution.DefaultOutputTokens, defaultImage: resolution.DefaultImageTokens,
		cachedPercent: resolution.CachedInputPercent, ratio: e.limiter.ratios.of(k.model),
	}
	p.quota, _ = k.holder.QuotaName()
	for _, l := range resolution.Limits {
		switch {
		case l.Shadow:
		case l.Capacity != nil:
			e.addCapacity(p, l, k.holder)
		default:
			p.limits = append(p.limits, l)
		}
	}
	p.enforced = len(p.limits)
	for _, l := range resolution.Limits {
		switch {
		case !l.Shadow:
		case l.Capacity != nil:
			p.rehearsed = append(p.rehearsed, rehearsed{e.limiter.rehearsals.of(l.Capacity), l})
		default:
			p.limits = append(p.limits, l)
		}
	}
	if p.guard = e.guards.of(k.gateway); p.guard != nil {
		p.subject = p.guard.ofHolder(k.holder)
	}
	if len(p.limits) > counter.MaxLimits {
		return p
	}
	for _, l := range p.limits {
		p.counters = append(p.counters, counter.Limit{Key: keyOf(l), Window: windowOf(l), Max: l.Max})
		p.caps = append(p.caps, capOf(l, p.limits))
	}
	store := e.limiter.stores(k.gateway.StoreOut)
	p.set = store.Open(p.counters[:p.enforced])
	if p.enforced < len(p.limits) {
		p.shadow = store.Open(p.counters[p.enforced:])
	}
	return p
}

// addCapacity adds the limit, and a counter for the share of the holder's tier.
func (e *epoch) addCapacity(p *plan, l policy.Limit, h *policy.Holder) {
	c := &capacity{Capacity: l.Capacity, longest: l.Capacity.MaxWait(h), limit: len(p.limits), share: -1, lane: lane{priority: h.Priority}}
	c.slot.capacity = keyOf(l)
	p.limits = append(p.limits, l)
	if share, ok := l.Capacity.Shares[h.Tier]; ok {
		held := shareLimit(l.Capacity, share)
		held.Status, held.Origin = l.Status, l.Origin
		c.share, c.lane.share, c.slot.share = len(p.limits), h.Tier, keyOf(held)
		p.limits = append(p.limits, held)
	}
	if c.Queue != nil {
		c.queue = e.limiter.queues.of(l.Capacity, c.slot.capacity, e.limiter)
	}
	p.capacity = c
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
	for i := range p.limits {
		t.hits[i] = clamp(t.amounts.of(p.limits[i].Pair.Metric), p.caps[i])
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

// capOf is the limit's Max, or less: of what many share, a request takes no more than its key, and of what others share as
// well no more than its user, may use in a window. Otherwise one request of a small plan that names a huge maximum could
// hold what everybody shares.
func capOf(l policy.Limit, all []policy.Limit) int64 {
	most := l.Max
	for _, narrow := range all {
		if narrow.Shadow == l.Shadow && narrow.Pair.Metric == l.Pair.Metric && sharers(narrow.Scope) < sharers(l.Scope) {
			most = min(most, narrow.Max)
		}
	}
	return most
}

// sharers orders scopes by how many share them: one key, the keys of a user, everybody.
func sharers(s policy.Scope) int {
	switch s {
	case policy.ScopeModelShared:
		return 2
	case policy.ScopeUser, policy.ScopeUserResource, policy.ScopeUserModel:
		return 1
	default:
		return 0
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
		if p.counters[i].Fits(t.counts[i].Used, t.hits[i]) {
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
