package ratelimit

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"sync"
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
	store     counter.Store
	ratios    *ratios
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

func newEpoch(t *policy.Table, store counter.Store, r *ratios, guards guards) *epoch {
	return &epoch{
		table: t, store: store, ratios: r, guards: guards,
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

// A plan is the limits of one kind of request and their counters.
type plan struct {
	limits        []policy.Limit
	counters      []counter.Limit
	caps          []int64     // the most that one request may take of each
	set           counter.Set // nil if there are more limits than a lease can carry
	defaultOutput int64
	defaultImage  int64
	cachedPercent int64
	ratio         *ratio
	guard         *guard // nil: nobody is blocked at the gateway
	subject       counter.Subject
}

func (e *epoch) plan(g *policy.Gateway, h *policy.Holder, model, resource string) *plan {
	key := planKey{g, h, e.table.Canonical(model), resource}
	if p, ok := e.plans.Load(key); ok {
		return p
	}
	if e.plans.Size() > maxPlans {
		e.plans.Clear()
	}
	p, _ := e.plans.LoadOrCompute(key, func() (*plan, bool) { return e.newPlan(key, model), false })
	return p
}

func (e *epoch) newPlan(k planKey, model string) *plan {
	resolution := e.table.Resolve(k.gateway, k.holder, model, k.resource)
	p := &plan{
		limits: resolution.Limits, defaultOutput: resolution.DefaultOutputTokens, defaultImage: resolution.DefaultImageTokens,
		cachedPercent: resolution.CachedInputPercent, ratio: e.ratios.of(k.model),
	}
	if p.guard = e.guards.of(k.gateway); p.guard != nil {
		p.subject = p.guard.ofHolder(k.holder)
	}
	if len(p.limits) > counter.MaxLimits {
		return p
	}
	for _, l := range p.limits {
		p.counters = append(p.counters, counter.Limit{Key: keyOf(l), Window: windows[l.Pair.Per], Max: l.Max})
		p.caps = append(p.caps, capOf(l, p.limits))
	}
	p.set = e.store.Open(p.counters)
	return p
}

// keyOf is the name of the limit's counter in a store.
func keyOf(l policy.Limit) (k counter.Key) {
	sum := sha256.Sum256([]byte(l.Counter))
	copy(k[:], sum[:])
	return k
}

var windows = map[policy.Per]counter.Window{
	policy.NoPer:  counter.InUse,
	policy.Second: counter.Second,
	policy.Minute: counter.Minute,
	policy.Hour:   counter.Hour,
	policy.Day:    counter.Day,
	policy.Month:  counter.Month,
}

// taken is what one Acquire asked for and found, by index of the plan's limits.
type taken struct {
	amounts amounts
	hits    [counter.MaxLimits]int64
	counts  [counter.MaxLimits]counter.Count
}

// takens keeps what would be over a kilobyte of garbage for each request.
var takens = sync.Pool{New: func() any { return new(taken) }}

func (p *plan) acquire(ctx context.Context, now time.Time, id counter.LeaseID, r *descriptor.Reserve, t *taken) (bool, error) {
	t.amounts = p.estimate(r)
	for i := range p.limits {
		t.hits[i] = clamp(t.amounts.of(p.limits[i].Pair.Metric), p.caps[i])
	}
	n := len(p.limits)
	return p.set.Acquire(ctx, now, id, now.Add(SlotExpiry), t.hits[:n], t.counts[:n])
}

// capOf is the limit's Max, or less: of what many share, a request takes no more than its key, and of what others share as
// well no more than its user, may use in a window. Otherwise one request of a small plan that names a huge maximum could
// hold what everybody shares.
func capOf(l policy.Limit, all []policy.Limit) int64 {
	most := l.Max
	for _, narrow := range all {
		if narrow.Pair.Metric == l.Pair.Metric && sharers(narrow.Scope) < sharers(l.Scope) {
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

// worst is the index of the limit that a denial speaks of: of those that refused, the rate that resets last, and
// concurrency only if no rate refused.
func (p *plan) worst(t *taken) int {
	worst := -1
	for i := range p.counters {
		if p.counters[i].Fits(t.counts[i].Used, t.hits[i]) {
			continue
		}
		if worst < 0 || t.counts[i].Reset.After(t.counts[worst].Reset) {
			worst = i // The Reset of a concurrency limit is the zero time, before any other.
		}
	}
	return worst
}
