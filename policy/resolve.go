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
	return t.catalog(g).resolve(h, model, resource, g != nil && g.Shadow)
}

func (c *catalog) resolve(h *Holder, model, resource string, shadow bool) Resolution {
	m := c.model(model)
	r := resolver{model: m, probe: h.probe, shadow: shadow}

	sources := h.sources()
	for _, rs := range sources {
		r.next(h)
		r.pick(rs.all, "", rs.shadow)
	}
	r.take(ScopeKey, h.subject)
	for _, rs := range sources {
		r.next(h)
		r.pick(rs.resources[resource], resource, rs.shadow)
	}
	r.take(ScopeKeyResource, h.subject)
	for _, rs := range sources {
		r.next(h)
		r.pickModel(rs)
	}
	if m.group != nil {
		r.pick(m.group.perKey, "group:"+m.group.name, m.group.shadow)
	}
	r.take(ScopeKeyModel, h.subject)

	if u := h.user; u != nil {
		r.pick(u.rules.all, "", u.rules.shadow)
		r.take(ScopeUser, u.subject)
		r.pick(u.rules.resources[resource], resource, u.rules.shadow)
		r.take(ScopeUserResource, u.subject)
		r.pickModel(u.rules)
		r.take(ScopeUserModel, u.subject)
	}
	for g := m.group; g != nil; g = g.parent {
		r.pick(g.shared, "", g.shadow)
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
	shadow bool // all limits are
	limits []Limit
	picked []candidate
	seen   uint32 // pairs about which something was said at this scope
	held   uint32 // pairs about which something was said that is enforced
}

type candidate struct {
	rule   rule
	entry  string
	shadow bool
}

func (c candidate) sameCounter(d candidate) bool {
	return c.rule.pair == d.rule.pair && c.entry == d.entry && c.rule.algorithm == d.rule.algorithm
}

// pick takes up what is said first about a pair. What is enforced holds as if nothing else were written; what is not stands
// beside it where it would hold if everything were enforced.
func (r *resolver) pick(rules []rule, entry string, shadow bool) {
	shadow = (shadow || r.shadow) && !r.probe
	for _, ru := range rules {
		bit := ru.pair.bit()
		first := r.seen&bit == 0
		r.seen |= bit
		if !shadow {
			first = r.held&bit == 0
			r.held |= bit
		}
		switch {
		case !first:
		case !ru.unlimited:
			r.picked = append(r.picked, candidate{ru, entry, shadow})
		case r.probe:
			ru.max = beyondAll
			r.picked = append(r.picked, candidate{ru, entry, shadow})
		}
	}
}

// beyondAll is larger than any sum of limits that the schema allows.
const beyondAll = math.MaxInt64 / 2

// next goes on to the holder's next source.
func (r *resolver) next(h *Holder) {
	if h.both {
		r.seen, r.held = 0, 0
	}
}

// pickModel offers what one object says about the model. Where models are counted apart, each has the counter of the
// narrowest name that this object or a ModelLimit gives it: never of a name that only a client has said, or clients could
// make up names to get fresh counters.
func (r *resolver) pickModel(rs *ruleset) {
	own, _, _ := rs.models.find(r.model.name)
	apart := "model:" + narrower(own, r.model.entry)
	for name, e := range rs.models.all(r.model.name) {
		r.pick(e.rules, either(e.together, "model:"+name, apart), rs.shadow)
	}
	if r.model.group == nil {
		return
	}
	if e, ok := rs.classes[r.model.group.class]; ok {
		r.pick(e.rules, either(e.together, "class:"+e.name, apart), rs.shadow)
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
			strings.Compare(a.entry, b.entry), cmp.Compare(a.rule.algorithm, b.rule.algorithm), compareBool(a.shadow, b.shadow), cmp.Compare(a.rule.max, b.rule.max))
	})
	for i, c := range r.picked {
		beside := false // another limit on the same counter
		if i > 0 {
			last := r.picked[i-1]
			beside = c.sameCounter(last)
			if beside && c.shadow == last.shadow {
				continue // Of two limits on one counter the smaller holds.
			}
		}
		l := Limit{
			Scope: scope, Pair: c.rule.pair, Algorithm: c.rule.algorithm, Max: c.rule.max, Status: c.rule.status, Origin: c.rule.origin, Subject: subject, Entry: c.entry,
			Shadow: c.shadow, Capacity: c.rule.capacity,
		}
		if !r.probe {
			l.Counter = counter(scope, subject, c.entry, c.rule.pair, c.rule.algorithm)
		}
		if beside {
			// It counts other requests than the one that is enforced. Alone it has the counter to itself, so that the count goes on
			// when it is enforced.
			l.Counter += " " + l.Enforcement()
		}
		r.limits = append(r.limits, l)
	}
	r.picked, r.seen, r.held = r.picked[:0], 0, 0
}
