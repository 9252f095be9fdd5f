package policy

import (
	"iter"
	"maps"
	"reflect"
	"slices"
)

// Changes lists the parts that must be set, and those that must be deleted, to make t of another Table; nil is an empty one.
// Both come from Compile. The lists are in no order.
func (t *Table) Changes(from *Table) (set []Part, gone []PartName) {
	if from == nil {
		from = &Table{models: &catalog{}, quotas: newSharded[Name, *Credential](0)}
	}
	var d difference
	compare(&d, from.tiers, t.tiers, (*tier).same, (*tier).part)
	compare(&d, from.users, t.users, equal, (*user).part)
	compare(&d, from.modelParts(t), t.modelParts(from), equal, asPart)
	compare(&d, from.gateways, t.gateways, (*Gateway).same, (*Gateway).part)
	for was, now := range t.quotas.unlike(&from.quotas) { // One by one, or the keys of both would have to be listed.
		compare(&d, was, now, (*Credential).same, (*Credential).part)
	}
	return d.set, d.gone
}

// Renewed names the quotas, in no order, that were made anew since another Table: all of which something else is said, the
// verdict included, and some of which nothing else is. After another Compiler's Table it names all. Those that are gone are not
// among them.
func (t *Table) Renewed(from *Table) iter.Seq[Name] {
	return func(yield func(Name) bool) {
		for was, now := range t.quotas.unlike(&from.quotas) {
			for name, c := range now {
				if was[name] != c && !yield(name) {
					return
				}
			}
		}
	}
}

type difference struct {
	set  []Part
	gone []PartName
}

func compare[K comparable, V any](d *difference, from, to map[K]V, same func(a, b V) bool, part func(V) Part) {
	if shared(from, to) {
		return
	}
	both := 0
	for k, v := range to {
		was, found := from[k]
		if found {
			both++
		}
		if !found || !same(was, v) {
			d.set = append(d.set, part(v))
		}
	}
	if both == len(from) {
		return // Nothing is gone, which is worth knowing where there are many.
	}
	for k, v := range from {
		if _, found := to[k]; !found {
			d.gone = append(d.gone, part(v).PartName())
		}
	}
}

func equal[T any](a, b T) bool { return reflect.DeepEqual(a, b) }

func asPart[P Part](p P) Part { return p }

// same leaves out what only Compile has to know.
func (t *tier) same(o *tier) bool {
	if t == o {
		return true
	}
	a, b := *t, *o
	a.key, b.key = "", ""
	return equal(a, b)
}

// same compares what a QuotaPart holds: what it refers to has parts of its own. It is called for every quota at every change.
func (c *Credential) same(o *Credential) bool {
	if c == o {
		return true
	}
	if c.standing != o.standing || !c.expires.Equal(o.expires) || !slices.Equal(c.digests, o.digests) {
		return false
	}
	if c.Holder == nil || o.Holder == nil {
		return c.Holder == o.Holder
	}
	a, b := c.Holder, o.Holder
	if a.tier.ref != b.tier.ref || a.both != b.both || a.userQuota() != b.userQuota() || !slices.Equal(a.ownAlerts(), b.ownAlerts()) {
		return false
	}
	x, y := a.own, b.own
	return x == nil && y == nil || equal(x, y)
}

// ownAlerts is nil where they are those of the tier.
func (h *Holder) ownAlerts() []int {
	if h.Terms == &h.tier.Terms {
		return nil
	}
	return h.Alerts
}

func (h *Holder) userQuota() string {
	if h.user == nil {
		return ""
	}
	return h.user.quota.Name
}

func (t *tier) part() Part {
	return &TierPart{
		TierRef: t.ref, Priority: t.Priority, Pool: t.Pool, MaxWait: t.MaxWait, Alerts: t.Alerts, Rules: *t.rules.part(),
	}
}

func (u *user) part() Part { return &UserPart{Name: u.quota, User: u.name, Rules: *u.rules.part()} }

func (c *Credential) part() Part { return c.quotaPart() }

func (c *Credential) quotaPart() *QuotaPart {
	p := &QuotaPart{Name: c.Quota, Suspended: c.standing == Suspended, Expires: c.expires, Digests: c.digests}
	if h := c.Holder; h != nil {
		p.Holder = &HolderPart{Tier: h.tier.ref, User: h.userQuota(), Both: h.both, Alerts: h.ownAlerts()}
		if h.own != nil {
			p.Holder.Own = h.own.part()
		}
	}
	return p
}

// modelParts leaves out the catalogs that the other Table shares.
func (t *Table) modelParts(other *Table) map[PartName]*ModelPart {
	all, others := map[PartName]*ModelPart{}, other.catalogs()
	for selector, c := range t.catalogs() {
		if others[selector] == c {
			continue
		}
		for _, p := range c.parts() {
			all[p.PartName()] = p
		}
	}
	return all
}

func (c *catalog) parts() map[string]*ModelPart {
	all := map[string]*ModelPart{}
	for _, name := range c.names {
		g, _ := c.groups.said(name)
		p := all[g.name]
		if p == nil {
			p = g.part(c.selector)
			all[g.name] = p
		}
		p.Models = append(p.Models, name)
	}
	return all
}

func (g *group) part(selector string) *ModelPart {
	p := &ModelPart{
		Name: g.name, Selector: selector, Class: g.class, Resource: g.resource, Shared: partsOf(g.shared), PerKey: partsOf(g.perKey),
		Shadow: g.shadow, DefaultOutputTokens: g.defaultOutput, CachedInputPercent: g.cachedPercent,
	}
	if g.parent != nil {
		p.Parent = g.parent.name
	}
	return p
}

// same compares what the service has to know: what only Envoys must know is no difference.
func (g *Gateway) same(o *Gateway) bool { return g == o || equal(g.part(), o.part()) }

func (g *Gateway) part() Part {
	return &GatewayPart{
		Gateway: Gateway{
			Name: g.Name, Sources: g.Sources, DenyUnknownModels: g.DenyUnknownModels,
			PerMetric: g.PerMetric, PerResource: g.PerResource, IETF: g.IETF, Anthropic: g.Anthropic,
			MaxWait: g.MaxWait, Shadow: g.Shadow, Abuse: g.Abuse, StoreOut: g.StoreOut,
		},
		MissingKey: g.MissingKey.ref(), UnknownKey: g.UnknownKey.ref(),
		AllNamespaces: g.admits.all, Namespaces: slices.Sorted(maps.Keys(g.admits.namespaces)), Selector: g.models.selector,
	}
}

func (a *Assigned) ref() *TierRef {
	if a == nil {
		return nil
	}
	return &a.tier.ref
}

func (rs *ruleset) part() *Rules {
	p := &Rules{Shadow: rs.shadow, All: partsOf(rs.all)}
	for _, name := range slices.Sorted(maps.Keys(rs.resources)) {
		p.Resources = append(p.Resources, Entry{Name: name, Rules: partsOf(rs.resources[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(rs.classes)) {
		p.Classes = append(p.Classes, rs.classes[name].part())
	}
	for _, name := range rs.models.names() {
		e, _ := rs.models.said(name)
		p.Models = append(p.Models, e.part())
	}
	return p
}

func (e entry) part() Entry { return Entry{e.name, e.together, partsOf(e.rules)} }

func partsOf(rules []rule) []Rule {
	out := make([]Rule, 0, len(rules))
	for _, r := range rules {
		p := Rule{r.pair, r.algorithm, r.unlimited, r.max, r.status, r.origin.Field, nil}
		if r.capacity != nil {
			p.Capacity = &CapacityPart{Queue: r.capacity.Queue}
			for tier, share := range r.capacity.Shares {
				if p.Capacity.Shares == nil {
					p.Capacity.Shares = map[string]int64{}
				}
				p.Capacity.Shares[tier] = share.Size
			}
		}
		out = append(out, p)
	}
	return out
}
