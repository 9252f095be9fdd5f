package ratelimit

import (
	"net/netip"
	"strings"
	"sync"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/tierkeeper/tierkeeper/policy"
)

// What an epoch keeps is bounded: what is dropped is made again when it is asked for. Strangers come and go, and anybody can
// be one.
const (
	maxPlans     = 1 << 18
	maxKinds     = 1 << 14
	maxStrangers = 1 << 14
)

// An epoch is a table and what was worked out from it. Resolving limits and finding their counters is done once for each
// caller and kind of request.
type epoch struct {
	table     *policy.Table
	limiter   *Limiter
	kinds     *xsync.Map[kindKey, *kind]
	plans     *xsync.Map[planKey, *plan]
	strangers *xsync.Map[strangerKey, *policy.Holder]
	guards    guards
	// quotaNames has the names of all quotas by their ids in subjects. It is made when it is first asked for.
	quotaNames func() map[[16]byte]string
}

type kindKey struct {
	gateway         *policy.Gateway
	model, resource string
}

// A planKey holds no text: of many callers it would be in no cache, and there is one of them for each.
type planKey struct {
	kind   *kind
	key    policy.Digest  // of the API key
	holder *policy.Holder // where there is no key that the table knows
}

type strangerKey struct {
	tier    *policy.Assigned
	address netip.Addr
}

func newEpoch(t *policy.Table, l *Limiter) *epoch {
	return &epoch{
		table: t, limiter: l, guards: l.newGuards(t),
		kinds: xsync.NewMap[kindKey, *kind](), plans: xsync.NewMap[planKey, *plan](), strangers: xsync.NewMap[strangerKey, *policy.Holder](),
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

// A kind is what all requests have in common that ask one gateway for one resource and for models that the table does not tell
// apart.
type kind struct {
	gateway  *policy.Gateway
	model    string // one of those models
	resource string
	ratio    *ratio
	guard    *guard // nil: nobody is blocked at the gateway

	mu     sync.Mutex
	shapes map[uint64][]*shape // by a hash of their limits
}

func (e *epoch) kind(g *policy.Gateway, model, resource string) *kind {
	key := kindKey{g, e.table.Canonical(model), resource}
	if k, ok := e.kinds.Load(key); ok {
		return k
	}
	if e.kinds.Size() > maxKinds {
		e.forget()
	}
	// What is kept must not keep the rest of the call, which has an API key.
	key.model, key.resource = strings.Clone(key.model), strings.Clone(resource)
	k, _ := e.kinds.LoadOrCompute(key, func() (*kind, bool) {
		return &kind{
			gateway: g, model: strings.Clone(model), resource: key.resource, ratio: e.limiter.ratios.of(key.model), guard: e.guards.of(g),
			shapes: map[uint64][]*shape{},
		}, false
	})
	return k
}

// plan is the one of a caller for requests of the kind.
func (e *epoch) plan(k *kind, c *caller) *plan {
	if c.plan != nil {
		return c.plan
	}
	key := planKey{kind: k, key: c.key}
	if c.credential == nil {
		key.holder = c.holder
	}
	if p, ok := e.plans.Load(key); ok {
		return p
	}
	if e.plans.Size() > maxPlans {
		e.forget()
	}
	p, _ := e.plans.LoadOrCompute(key, func() (*plan, bool) { return e.newPlan(k, c), false })
	return p
}

// forget drops kinds with plans, which are found by them.
func (e *epoch) forget() {
	e.kinds.Clear()
	e.plans.Clear()
}
