package policy

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// A Resolution is what holds for the requests of one holder for one model and one resource.
type Resolution struct {
	Limits []Limit // by scope, then pair; nil if nothing limits
	// DefaultOutputTokens is what a request that names no maximum may bring out.
	DefaultOutputTokens int64
	// DefaultImageTokens is the same for images: 0 unless a ModelLimit says otherwise.
	DefaultImageTokens int64
	// CachedInputPercent is how much a cached token of the input counts, in percent of another.
	CachedInputPercent int64
}

const (
	// DefaultOutputTokens holds for models about which no ModelLimit says anything else.
	DefaultOutputTokens = 1024
	wholePercent        = 100
)

// Resolve lists every limit that holds when the holder asks the gateway for the model on a route of the resource. Model and
// resource may be empty; without a gateway all ModelLimits count. It is the only code that knows precedence: scopes hold
// together; at one scope, pair by pair, the first to say anything wins, by source (ApiKeyQuota, then tier, then the
// ModelLimit's perKey) and within one source by exact name, then longest pattern, then class. (Where a quota that is not
// accepted goes on with limits that would now let more pass than its tier, its limits and its tier's hold together.)
func (t *Table) Resolve(g *Gateway, h *Holder, model, resource string) Resolution {
	return t.catalog(g).resolve(h, model, resource)
}

func (c *catalog) resolve(h *Holder, model, resource string) Resolution {
	m := c.model(model)
	r := resolver{model: m, probe: h.probe}

	for _, rs := range h.sources {
		r.next(h)
		r.pick(rs.all, "")
	}
	r.take(ScopeKey, h.subject)
	for _, rs := range h.sources {
		r.next(h)
		r.pick(rs.resources[resource], resource)
	}
	r.take(ScopeKeyResource, h.subject)
	for _, rs := range h.sources {
		r.next(h)
		r.pickModel(rs)
	}
	if m.group != nil {
		r.pick(m.group.perKey, "group:"+m.group.name)
	}
	r.take(ScopeKeyModel, h.subject)

	if u := h.user; u != nil {
		r.pick(u.rules.all, "")
		r.take(ScopeUser, u.subject)
		r.pick(u.rules.resources[resource], resource)
		r.take(ScopeUserResource, u.subject)
		r.pickModel(u.rules)
		r.take(ScopeUserModel, u.subject)
	}
	for g := m.group; g != nil; g = g.parent {
		r.pick(g.shared, "")
		r.take(ScopeModelShared, g.name)
	}

	out := Resolution{Limits: r.limits, DefaultOutputTokens: DefaultOutputTokens, CachedInputPercent: wholePercent}
	if m.group == nil {
		return out
	}
	out.CachedInputPercent = m.group.cachedPercent
	if n := m.group.defaultOutput; n > 0 {
		out.DefaultOutputTokens, out.DefaultImageTokens = n, n
	}
	return out
}

// resolver gathers limits scope by scope: pick offers rules, the best first, and take ends a scope.
type resolver struct {
	model  model
	probe  bool
	limits []Limit
	picked []candidate
	seen   uint32 // pairs about which something was said at this scope
}

type candidate struct {
	rule  rule
	entry string
}

func (c candidate) sameCounter(d candidate) bool {
	return c.rule.pair == d.rule.pair && c.entry == d.entry && c.rule.algorithm == d.rule.algorithm
}

func (r *resolver) pick(rules []rule, entry string) {
	for _, ru := range rules {
		if r.seen&ru.pair.bit() != 0 {
			continue
		}
		r.seen |= ru.pair.bit()
		switch {
		case !ru.unlimited:
			r.picked = append(r.picked, candidate{ru, entry})
		case r.probe:
			ru.max = beyondAll
			r.picked = append(r.picked, candidate{ru, entry})
		}
	}
}

// beyondAll is larger than any sum of limits that the schema allows.
const beyondAll = math.MaxInt64 / 2

// next goes on to the holder's next source.
func (r *resolver) next(h *Holder) {
	if h.both {
		r.seen = 0
	}
}

// pickModel offers what one object says about the model. Where models are counted apart, each has the counter of the
// narrowest name that this object or a ModelLimit gives it: never of a name that only a client has said, or clients could
// make up names to get fresh counters.
func (r *resolver) pickModel(rs *ruleset) {
	own, _, _ := rs.models.find(r.model.name)
	apart := "model:" + narrower(own, r.model.entry)
	for name, e := range rs.models.all(r.model.name) {
		r.pick(e.rules, either(e.together, "model:"+name, apart))
	}
	if r.model.group == nil {
		return
	}
	if e, ok := rs.classes[r.model.group.class]; ok {
		r.pick(e.rules, either(e.together, "class:"+e.name, apart))
	}
}

func either(condition bool, yes, no string) string {
	if condition {
		return yes
	}
	return no
}

func (r *resolver) take(scope Scope, subject string) {
	slices.SortFunc(r.picked, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rule.pair.Metric, b.rule.pair.Metric), cmp.Compare(a.rule.pair.Per, b.rule.pair.Per),
			strings.Compare(a.entry, b.entry), cmp.Compare(a.rule.algorithm, b.rule.algorithm), cmp.Compare(a.rule.max, b.rule.max))
	})
	for i, c := range r.picked {
		if i > 0 && c.sameCounter(r.picked[i-1]) {
			continue // Of two limits on one counter the smaller holds.
		}
		l := Limit{
			Scope: scope, Pair: c.rule.pair, Algorithm: c.rule.algorithm, Max: c.rule.max, Status: c.rule.status, Origin: c.rule.origin, Entry: c.entry,
		}
		if !r.probe {
			l.Counter = counter(scope, subject, c.entry, c.rule.pair, c.rule.algorithm)
		}
		r.limits = append(r.limits, l)
	}
	r.picked, r.seen = r.picked[:0], 0
}
