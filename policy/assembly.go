package policy

import (
	"fmt"
	"maps"
	"slices"
)

// An Assembly puts Tables together from the parts of others. What no change concerns is shared by all the Tables that it
// makes, so that a change of one quota costs the same however many there are. It is for one goroutine at a time; its
// Tables are for any number.
type Assembly struct {
	tiers    map[TierRef]*tier
	users    map[Name]*user                   // by UserQuota
	models   map[string]map[string]*ModelPart // by selector and name
	catalogs map[string]*catalog              // by selector; without those that are to be made anew
	gateways map[Name]*assembledGateway
	quotas   sharded[Name, *Credential]
	keys     sharded[Digest, *Credential]
	waiting  map[Name]*QuotaPart // quotas that refer to what is not there

	names    map[string]int // how many objects call a model so
	named    *matcher[struct{}]
	replaced bool // a tier or a user was set or deleted since holders were last looked at
}

// assembledGateway is a gateway as it is to be, and as it is in the Table; nil until everything that it refers to is there.
type assembledGateway struct {
	part *GatewayPart
	made *Gateway
	of   *GatewayPart // what made was made of
}

// NewAssembly has no parts.
func NewAssembly() *Assembly {
	return &Assembly{
		tiers: map[TierRef]*tier{}, users: map[Name]*user{},
		models: map[string]map[string]*ModelPart{}, catalogs: map[string]*catalog{}, gateways: map[Name]*assembledGateway{},
		quotas: newSharded[Name, *Credential](0), keys: newSharded[Digest, *Credential](0), waiting: map[Name]*QuotaPart{},
		names: map[string]int{},
	}
}

// Set adds a part, or replaces the one of its name.
func (a *Assembly) Set(p Part) {
	switch p := p.(type) {
	case *TierPart:
		terms := Terms{Priority: p.Priority, Pool: p.Pool, MaxWait: p.MaxWait, Alerts: p.Alerts}
		a.setTier(p.TierRef, newTier(p.TierRef, terms, newRulesetOf(&p.Rules, Origin{Kind: KindTier, Name: p.Name})))
	case *UserPart:
		rules := newRulesetOf(&p.Rules, Origin{Kind: KindUser, Namespace: p.Name.Namespace, Name: p.Name.Name})
		a.setUser(p.Name, newUser(p.Name, p.User, rules))
	case *ModelPart:
		if a.models[p.Selector] == nil {
			a.models[p.Selector] = map[string]*ModelPart{}
		}
		a.models[p.Selector][p.Name] = p
		a.forget(p.Selector)
	case *GatewayPart:
		if a.gateways[p.Gateway.Name] == nil {
			a.gateways[p.Gateway.Name] = &assembledGateway{}
		}
		a.gateways[p.Gateway.Name].part = p
	case *QuotaPart:
		a.setQuota(p, true)
	}
}

// Delete takes a part out. What refers to it goes on as it was, and is reported by Table, until it is set anew or deleted.
func (a *Assembly) Delete(n PartName) {
	switch n.Kind {
	case KindTier:
		a.setTier(TierRef{n.Name.Name, n.Form}, nil)
	case KindUser:
		a.setUser(n.Name, nil)
	case KindModel:
		delete(a.models[n.Form], n.Name.Name)
		a.forget(n.Form)
	case KindGateway:
		if g := a.gateways[n.Name]; g != nil {
			a.countGateway(g.made, -1)
		}
		delete(a.gateways, n.Name)
	case KindQuota:
		a.deleteQuota(n.Name)
	}
}

// Table makes the Table of the parts as they are. It says of each part that refers to what is not there, what that is: such
// a quota or gateway goes on as it was before. One that was not there before is left out, but for the keys of a quota, which
// are known and Pending. Nobody can tell whether versions of assembled Tables are right: it is the caller's.
func (a *Assembly) Table(version string) (*Table, map[PartName]string) {
	missing := map[PartName]string{}
	t := &Table{version: version, gateways: map[Name]*Gateway{}, models: a.catalog("", missing)}
	for name, g := range a.gateways {
		if why := a.make(g, missing); why != "" {
			missing[g.part.PartName()] = why
		}
		if g.made != nil {
			t.gateways[name] = g.made
		}
	}
	a.settleAll()
	for name, p := range a.waiting {
		missing[p.PartName()] = a.lacks(name, p.Holder)
	}
	if a.named == nil {
		a.named = &matcher[struct{}]{}
		for name := range a.names {
			a.named.add(name, struct{}{})
		}
	}
	t.named, t.quotas, t.keys = *a.named, a.quotas.share(), a.keys.share()
	return t, missing
}

func (a *Assembly) setTier(ref TierRef, t *tier) {
	if was := a.tiers[ref]; was != nil {
		a.count(was.rules, -1)
	}
	delete(a.tiers, ref)
	if t != nil {
		a.tiers[ref] = t
		a.count(t.rules, 1)
	}
	a.replaced = true
}

func (a *Assembly) setUser(name Name, u *user) {
	if was := a.users[name]; was != nil {
		a.count(was.rules, -1)
	}
	delete(a.users, name)
	if u != nil {
		a.users[name] = u
		a.count(u.rules, 1)
	}
	a.replaced = true
}

// count notes that n more objects call models as the rules do.
func (a *Assembly) count(rs *ruleset, n int) {
	for name := range rs.models.each() {
		a.call(name, n)
	}
}

func (a *Assembly) call(name string, n int) {
	before := a.names[name]
	a.names[name] = before + n
	if before+n == 0 {
		delete(a.names, name)
	}
	if before == 0 || before+n == 0 {
		a.named = nil
	}
}

// forget lets the catalog of a selector be made anew.
func (a *Assembly) forget(selector string) {
	if c := a.catalogs[selector]; c != nil {
		for _, name := range c.names {
			a.call(name, -1)
		}
	}
	delete(a.catalogs, selector)
}

// catalog is empty where no ModelLimit is selected. It notes parents that are missing: a group's own limits hold meanwhile.
func (a *Assembly) catalog(selector string, missing map[PartName]string) *catalog {
	parts := a.models[selector]
	for _, p := range parts {
		if p.Parent != "" && parts[p.Parent] == nil {
			missing[p.PartName()] = fmt.Sprintf("its parent, ModelLimit %s, is not there; its own limits hold", p.Parent)
		}
	}
	if a.catalogs[selector] == nil {
		a.catalogs[selector] = newCatalogOf(selector, parts)
		for _, name := range a.catalogs[selector].names {
			a.call(name, 1)
		}
	}
	return a.catalogs[selector]
}

// make brings a gateway up to date, or says why it cannot be.
func (a *Assembly) make(g *assembledGateway, missing map[PartName]string) string {
	var assigned [2]*Assigned
	for i, ref := range []*TierRef{g.part.MissingKey, g.part.UnknownKey} {
		if ref == nil {
			continue
		}
		t := a.tiers[*ref]
		if t == nil {
			return noTier(*ref)
		}
		assigned[i] = &Assigned{g.part.Gateway.Name, t}
	}
	models := a.catalog(g.part.Selector, missing)
	if g.of == g.part && g.made.models == models && equalAssigned(g.made.MissingKey, assigned[0]) && equalAssigned(g.made.UnknownKey, assigned[1]) {
		return ""
	}
	made := g.part.Gateway
	made.MissingKey, made.UnknownKey, made.models = assigned[0], assigned[1], models
	made.admits = admission{all: g.part.AllNamespaces, namespaces: map[string]bool{}}
	for _, n := range g.part.Namespaces {
		made.admits.namespaces[n] = true
	}
	a.countGateway(&made, 1)
	a.countGateway(g.made, -1)
	g.made, g.of = &made, g.part
	return ""
}

// countGateway notes that n more gateways go by these ModelLimits and tiers, which may be none that are there.
func (a *Assembly) countGateway(g *Gateway, n int) {
	if g == nil {
		return
	}
	for _, name := range g.models.names {
		a.call(name, n)
	}
	for _, t := range g.assigned() {
		a.count(t.tier.rules, n)
	}
}

func equalAssigned(a, b *Assigned) bool { return a == b || a != nil && b != nil && *a == *b }

func noTier(ref TierRef) string {
	return fmt.Sprintf("it refers to %s, which is not there", (&TierPart{TierRef: ref}).PartName())
}

// setQuota puts a quota and its keys in force. A key that it has no more is unknown from then on, unless another quota has
// it. News takes keys from other quotas: what is only made anew does not, because of a quota that was told later.
func (a *Assembly) setQuota(p *QuotaPart, news bool) {
	c := &Credential{Quota: p.Name, expires: p.Expires, digests: p.Digests}
	delete(a.waiting, p.Name)
	was, _ := a.quotas.get(p.Name)
	if h := p.Holder; h != nil && a.lacks(p.Name, h) == "" {
		c.Holder = a.holder(p.Name, h)
	} else if h != nil {
		a.waiting[p.Name] = p
		if was != nil {
			c.Holder = was.Holder
		}
	}
	switch {
	case p.Suspended:
		c.standing = Suspended
	case c.Holder == nil:
		c.standing = Pending
	}
	a.quotas.set(p.Name, c)
	for _, d := range p.Digests {
		if owner, taken := a.keys.get(d); news || !taken || owner == was {
			a.keys.set(d, c)
		}
	}
	a.countHolder(c.Holder, 1)
	a.dropQuota(was)
}

func (a *Assembly) deleteQuota(name Name) {
	if was, found := a.quotas.get(name); found {
		a.dropQuota(was)
	}
	a.quotas.delete(name)
	delete(a.waiting, name)
}

// dropQuota forgets everything about a credential but its name.
func (a *Assembly) dropQuota(c *Credential) {
	if c == nil {
		return
	}
	for _, d := range c.digests {
		if holder, _ := a.keys.get(d); holder == c {
			a.keys.delete(d)
		}
	}
	a.countHolder(c.Holder, -1)
}

func (a *Assembly) countHolder(h *Holder, n int) {
	if h == nil {
		return
	}
	for _, rs := range h.sources() {
		a.count(rs, n)
	}
	if h.user != nil {
		a.count(h.user.rules, n)
	}
}

// lacks says what a quota refers to that is not there; empty if all is.
func (a *Assembly) lacks(quota Name, h *HolderPart) string {
	if a.tiers[h.Tier] == nil {
		return noTier(h.Tier)
	}
	if user := (Name{quota.Namespace, h.User}); h.User != "" && a.users[user] == nil {
		return fmt.Sprintf("it refers to %s, which is not there", Object{KindUser, user})
	}
	return ""
}

func (a *Assembly) holder(quota Name, p *HolderPart) *Holder {
	var own *ruleset
	if p.Own != nil {
		own = newRulesetOf(p.Own, Origin{Kind: KindQuota, Namespace: quota.Namespace, Name: quota.Name})
	}
	h := newHolder(quota, own, a.tiers[p.Tier], a.users[Name{quota.Namespace, p.User}])
	h.both = p.Both
	if len(p.Alerts) > 0 {
		h.alertAt(p.Alerts)
	}
	return h
}

// settleAll lets every quota follow the tiers and the users that were replaced.
func (a *Assembly) settleAll() {
	if !a.replaced {
		return
	}
	a.replaced = false
	stale := slices.Collect(maps.Values(a.waiting))
	waited := a.waiting
	a.waiting = map[Name]*QuotaPart{} // Those that still wait come back. What many of them took must not stay.
	for name, c := range a.quotas.all() {
		if waited[name] == nil && c.Holder != nil && !a.current(c.Holder) {
			stale = append(stale, c.quotaPart())
		}
	}
	for _, p := range stale {
		a.setQuota(p, false)
	}
}

// current reports whether the tier and the user of a holder are those that are there.
func (a *Assembly) current(h *Holder) bool {
	return a.tiers[h.tier.ref] == h.tier && (h.user == nil || a.users[h.user.quota] == h.user)
}

// newCatalogOf is the catalog that the parts were taken from.
func newCatalogOf(selector string, parts map[string]*ModelPart) *catalog {
	c := &catalog{selector: selector}
	groups := map[string]*group{}
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		g := newGroupOf(parts[name])
		groups[name] = g
		for _, model := range parts[name].Models {
			c.groups.add(model, g)
		}
	}
	for name, g := range groups {
		g.parent = groups[parts[name].Parent]
	}
	c.measure()
	return c
}

func newGroupOf(p *ModelPart) *group {
	from := Origin{Kind: KindModel, Name: p.Name}
	return &group{
		name: p.Name, class: p.Class, resource: p.Resource, shared: newRulesOf(p.Shared, from), perKey: newRulesOf(p.PerKey, from),
		shadow: p.Shadow, defaultOutput: p.DefaultOutputTokens, cachedPercent: p.CachedInputPercent,
	}
}

func newRulesetOf(p *Rules, from Origin) *ruleset {
	rs := emptyRuleset(p.Shadow)
	rs.say(newRulesOf(p.All, from))
	for _, e := range p.Resources {
		rs.sayOfResource(e.Name, newRulesOf(e.Rules, from))
	}
	for _, e := range p.Classes {
		rs.sayOfClass(entry{e.Name, e.Together, newRulesOf(e.Rules, from)})
	}
	for _, e := range p.Models {
		rs.sayOfModels(entry{e.Name, e.Together, newRulesOf(e.Rules, from)})
	}
	return rs
}

func newRulesOf(parts []Rule, from Origin) []rule {
	if len(parts) == 0 {
		return nil
	}
	out := make([]rule, 0, len(parts))
	for _, p := range parts {
		r := rule{
			pair: p.Pair, algorithm: p.Algorithm, unlimited: p.Unlimited, max: p.Max, status: p.Status, origin: from.at(p.Field),
		}
		if p.Capacity != nil {
			r.capacity = p.Capacity.capacity(from.Name, p.Max)
		}
		out = append(out, r)
	}
	return out
}

func (p *CapacityPart) capacity(group string, most int64) *Capacity {
	c := &Capacity{Group: group, Max: most, Queue: p.Queue}
	for tier, size := range p.Shares {
		c.reserve(tier, size)
	}
	return c
}
