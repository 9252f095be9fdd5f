package policy

import (
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

func checkSelector(s *metav1.LabelSelector, path string) []Problem {
	if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
		return []Problem{{v1alpha1.ReasonInvalidSelector, path, fmt.Sprintf("The selector cannot be evaluated: %v.", err)}}
	}
	return nil
}

// selects reports whether a valid selector matches the namespace. Every namespace has the label that the API server gives
// it, also where namespaces come from files.
func (c *compilation) selects(s *metav1.LabelSelector, namespace string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return false
	}
	set := labels.Set{"kubernetes.io/metadata.name": namespace}
	return selector.Matches(labels.Merge(c.namespaces[namespace].Labels, set))
}

// selected names the namespaces that hold quotas and that a valid selector matches. Many gateways can have one selector.
func (c *compilation) selected(s *metav1.LabelSelector) map[string]bool {
	key := string(encode(s))
	all, known := c.selections[key]
	if !known {
		all = map[string]bool{}
		for namespace := range c.held.namespaces {
			if c.selects(s, namespace) {
				all[namespace] = true
			}
		}
		c.selections[key] = all
	}
	return all
}

// use is that of a tier by a namespace.
type use struct{ tier, namespace string }

func (c *compilation) permits(t *v1alpha1.RateLimitTier, namespace string) bool {
	n := t.Spec.AllowedNamespaces
	if n == nil {
		return true
	}
	switch n.From {
	case v1alpha1.TierNamespacesAll:
		return true
	case v1alpha1.TierNamespacesSelector:
		u := use{t.Name, namespace}
		if _, known := c.permitted[u]; !known {
			c.permitted[u] = c.selects(n.Selector, namespace)
		}
		return c.permitted[u]
	default:
		return false
	}
}

// checkTier says why an object of the namespace cannot use the tier.
func (c *compilation) checkTier(namespace, name, path string) []Problem {
	t, found := c.tiers[name]
	switch {
	case !found:
		return []Problem{{v1alpha1.ReasonTierNotFound, path, fmt.Sprintf("There is no accepted RateLimitTier %s.", name)}}
	case !c.permits(t, namespace):
		return []Problem{{
			v1alpha1.ReasonTierNotPermitted, path,
			fmt.Sprintf("RateLimitTier %s does not allow namespace %s; see its spec.allowedNamespaces.", name, namespace),
		}}
	}
	return nil
}

// checkOverrides holds the limits of a quota against the keyOverrides of its tier, by each of the catalogs.
func (c *compilation) checkOverrides(h *Holder, t *tier, allowed v1alpha1.KeyOverrides, catalogs []*catalog) *Problem {
	if h.own == nil || allowed == v1alpha1.KeyOverridesAny {
		return nil
	}
	if allowed == v1alpha1.KeyOverridesNone {
		return &Problem{
			v1alpha1.ReasonOverrideNotPermitted, "spec",
			fmt.Sprintf("RateLimitTier %s lets no key set limits of its own (keyOverrides: None).", t.ref.Name),
		}
	}
	for _, models := range catalogs {
		if base, by := c.loosened(models, h, t); base != nil {
			message := fmt.Sprintf("This allows more than %d %s, which %s %s sets in %s, and RateLimitTier %s lets keys only lower limits (keyOverrides: Lower).",
				base.Max, base.Pair, base.Origin.Kind, base.Origin.Name, base.Origin.Field, t.ref.Name)
			if by.doubled {
				message += " There the window slides, and one that does not lets up to twice its max pass: set algorithm: SlidingWindow here, too."
			}
			return &Problem{v1alpha1.ReasonOverrideNotPermitted, by.field, message}
		}
	}
	return nil
}

// loosened finds a limit that would hold without the quota's own and beyond which the quota's own would let more pass:
// because it is lifted, because a larger one takes its place, because several counters take the place of one that are
// together larger, or because a fixed window takes the place of one that slides. It returns the limit and what takes its
// place.
//
// It tries every model that any object tells from others, so that no pattern or class slips past the tier's exact names.
func (c *compilation) loosened(models *catalog, h *Holder, t *tier) (*Limit, *replacement) {
	own := h.own
	full := &Holder{tier: t, own: own, probe: true}
	replaced := map[slot]*replacement{}
	for _, p := range models.touched(own, t.rules) {
		bare := c.bareLimits(models, t, own, p)
		with := bare
		if models.speaksAt(own, p) {
			with = models.resolve(full, p.model, p.resource, false).Limits
		}
		for _, base := range bare {
			if base.Scope != p.scope() || base.Max == beyondAll {
				continue
			}
			i := slices.IndexFunc(with, func(l Limit) bool { return l.Scope == base.Scope && l.Pair == base.Pair })
			s := slot{base.Scope, base.Pair, base.Algorithm, base.Entry}
			if replaced[s] == nil {
				replaced[s] = &replacement{algorithm: base.Algorithm, by: map[counted]int64{}}
			}
			// A probe shows each pair that anybody mentions, lifted or not, so the pair is there.
			if r := replaced[s]; r.add(with[i]) > base.Max {
				return &base, r
			}
		}
	}
	return nil, nil
}

// bareKey names what bareLimits keeps.
type bareKey struct {
	models *catalog
	tier   *tier
	model  string
}

// bareLimits are the limits of the tier without the quota's own. Those at models that others name too are kept.
func (c *compilation) bareLimits(models *catalog, t *tier, own *ruleset, p point) []Limit {
	key := bareKey{models, t, p.model}
	if known, ok := c.bare[key]; ok && p.model != "" {
		return known
	}
	limits := models.resolve(&Holder{tier: t, probe: true}, p.model, p.resource, false).Limits
	if _, mine := own.models.said(p.name); p.model != "" && !mine {
		c.bare[key] = limits
	}
	return limits
}

// speaksAt reports whether the rules say anything about the requests of a touched point.
func (c *catalog) speaksAt(own *ruleset, p point) bool {
	if p.model == "" {
		return true
	}
	if _, _, found := own.models.find(p.model); found {
		return true
	}
	g := c.model(p.model).group
	if g == nil {
		return false
	}
	_, found := own.classes[g.class]
	return found
}

// slot tells the counters of one holder apart.
type slot struct {
	scope     Scope
	pair      Pair
	algorithm Algorithm
	entry     string
}

// replacement is the counters that take the place of one, all of its scope and pair.
type replacement struct {
	algorithm Algorithm // of the one
	by        map[counted]int64
	field     string // of the quota's limit among them
	doubled   bool   // by a fixed window in place of one that slides
}

// counted tells the counters of a replacement apart.
type counted struct {
	entry     string
	algorithm Algorithm
}

// add notes one of the counters and returns how much they allow together. Within the length of a unit a fixed window allows
// twice its max: at the end of one calendar unit and at the start of the next.
func (r *replacement) add(l Limit) (sum int64) {
	most, c := l.Max, counted{l.Entry, l.Algorithm}
	if r.algorithm == SlidingWindow && l.Algorithm == FixedWindow && most != beyondAll {
		r.doubled, most = true, 2*most
	}
	r.by[c] = max(r.by[c], most)
	if l.Origin.Kind == KindQuota {
		r.field = l.Origin.Field
	}
	for _, m := range r.by {
		sum += m
	}
	return sum
}

// A point stands for all requests that no object tells apart. Limits by model do not depend on the resource, nor the other
// way round, so a point need not have both.
type point struct {
	name     string // of the models, or the pattern
	model    string // one of them
	resource string
}

// scope is the scope of a key's limits for which the point stands.
func (p point) scope() Scope {
	switch {
	case p.model != "":
		return ScopeKeyModel
	case p.resource != "":
		return ScopeKeyResource
	default:
		return ScopeKey
	}
}

// touched lists the points at which a quota's own limits can change what its tier says: everywhere or nowhere for what
// holds over everything, its own resources, and every model as soon as it says something about models, because those
// that it leaves out go on with counters that the others shared.
func (c *catalog) touched(own, tier *ruleset) (points []point) {
	if len(own.all) > 0 {
		points = append(points, point{})
	}
	for _, r := range slices.Sorted(maps.Keys(own.resources)) {
		points = append(points, point{resource: r})
	}
	if len(own.classes) > 0 || own.models.len() > 0 {
		points = append(points, c.points(own, tier)...)
	}
	return points
}

// points lists models that any of the rulesets or the ModelLimits tell apart.
func (c *catalog) points(sets ...*ruleset) []point {
	names := slices.Clone(c.names)
	for _, rs := range sets {
		names = append(names, rs.models.names()...)
	}
	slices.Sort(names)
	var points []point
	for _, n := range slices.Compact(names) {
		points = append(points, point{name: n, model: example(n)})
	}
	return points
}

// example returns a model that matches the name or pattern, and no longer pattern: no object can hold a byte that is not
// UTF-8.
func example(name string) string {
	if name[len(name)-1] != '*' {
		return name
	}
	return name[:len(name)-1] + "\xff"
}
