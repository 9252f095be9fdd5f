package policy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// Compile makes the Table for in and says of each object whether it counts. A bad object costs only itself. Equal inputs,
// in any order, give equal results.
//
// An ApiKeyQuota that is not accepted keeps the limits that LastAccepted has for it, by its tier as it is now and never more
// than that allows, and one that has none is refused; a QuotaGateway that is not accepted goes on as LastAccepted
// has it; of other kinds, what is not accepted does not count, but for a ModelLimit whose parent is missing: its own
// limits hold.
func Compile(in Input) (*Table, []Verdict) {
	c := newCompiler(in)
	c.compileTiers()
	c.compileUsers()
	c.compileGateways()
	c.judgeModels()
	c.compileQuotas()
	c.gather()
	c.nameModels()
	c.table.version = c.table.hash()
	slices.SortFunc(c.verdicts, func(a, b Verdict) int {
		if a.Object.Kind != b.Object.Kind {
			return strings.Compare(a.Object.Kind, b.Object.Kind)
		}
		return compareNames(a.Object.Name, b.Object.Name)
	})
	return c.table, c.verdicts
}

// compiler holds what the steps of Compile hand on to each other.
type compiler struct {
	in         Input
	namespaces map[string]Namespace
	permitted  map[use]bool // see permits
	tiers      map[string]*v1alpha1.RateLimitTier
	compiled   map[string]*tier
	users      map[Name]*user         // by namespace and spec.user
	models     []*v1alpha1.ModelLimit // by age
	catalogs   map[string]*catalog    // by selector; see catalogOf
	counting   map[string][]*catalog  // by namespace; see catalogsFor
	worst      map[plan]int           // see mostLimits
	former     map[string]*tier       // by AcceptedQuota.Tier; see tierAs
	bare       map[bareKey][]Limit    // see bareLimits
	table      *Table
	verdicts   []Verdict
}

func newCompiler(in Input) *compiler {
	n := len(in.Quotas)
	c := &compiler{
		in:         in,
		namespaces: map[string]Namespace{},
		permitted:  map[use]bool{},
		bare:       map[bareKey][]Limit{},
		catalogs:   map[string]*catalog{},
		counting:   map[string][]*catalog{},
		models:     byAge(in.Models, func(m *v1alpha1.ModelLimit) *metav1.ObjectMeta { return &m.ObjectMeta }),
		former:     map[string]*tier{},
		tiers:      map[string]*v1alpha1.RateLimitTier{},
		compiled:   map[string]*tier{},
		users:      map[Name]*user{},
		worst:      map[plan]int{},
		table: &Table{
			keys: newSharded[Digest, *Credential](n), quotas: newSharded[Name, *Credential](n), gateways: map[Name]*Gateway{},
			tiers: map[TierRef]*tier{}, users: map[Name]*user{},
			accepted: Accepted{Quotas: make(map[string]AcceptedQuota, n), Gateways: map[string]AcceptedGateway{}, Tiers: map[string]AcceptedTier{}},
		},
		verdicts: make([]Verdict, 0, n+len(in.Tiers)+len(in.Models)+len(in.Users)+len(in.Gateways)),
	}
	for _, n := range in.Namespaces {
		c.namespaces[n.Name] = n
	}
	c.table.models = c.catalogOf(nil)
	return c
}

func (c *compiler) judge(kind string, obj *metav1.ObjectMeta, problems ...Problem) {
	c.verdicts = append(c.verdicts, Verdict{
		Object:     Object{Kind: kind, Name: nameOf(obj)},
		Generation: obj.Generation, Problems: problems,
	})
}

func nameOf(obj *metav1.ObjectMeta) Name { return Name{obj.Namespace, obj.Name} }

// byAge returns the objects in the order in which they may claim what only one can have: the older first, then by
// namespace and name.
func byAge[T any](objects []T, meta func(*T) *metav1.ObjectMeta) []*T {
	sorted := make([]*T, len(objects))
	for i := range objects {
		sorted[i] = &objects[i]
	}
	slices.SortFunc(sorted, func(x, y *T) int {
		a, b := meta(x), meta(y)
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return sorted
}

func (c *compiler) compileTiers() {
	for _, t := range byAge(c.in.Tiers, func(t *v1alpha1.RateLimitTier) *metav1.ObjectMeta { return &t.ObjectMeta }) {
		var problems []Problem
		if n := t.Spec.AllowedNamespaces; n != nil {
			problems = checkSelector(n.Selector, "spec.allowedNamespaces.selector")
		}
		c.judge(KindTier, &t.ObjectMeta, problems...)
		if len(problems) == 0 {
			c.tiers[t.Name] = t
			compiled := compileTier(TierRef{Name: t.Name}, &t.Spec)
			compiled.key = (&AcceptedTier{t.Name, t.Spec}).Key()
			c.compiled[t.Name] = compiled
		}
	}
}

func compileTier(ref TierRef, spec *v1alpha1.RateLimitTierSpec) *tier {
	return newTier(tier{
		ref:      ref,
		priority: priorities[spec.Priority],
		pool:     spec.BackendPool,
		maxWait:  maxWait(spec.Queue),
		alerts:   alerts(spec.Alerts, defaultAlerts),
		rules:    newRuleset(&spec.KeyLimits, spec.Enforcement, Origin{Kind: KindTier, Name: ref.Name}),
	})
}

func newTier(t tier) *tier {
	t.alone = []*ruleset{t.rules}
	return &t
}

// tierAs is the tier as it is now if the spec is that, or as it was by the spec, which key names. It compiles a former tier
// once for all that were on it.
func (c *compiler) tierAs(key string, was *AcceptedTier) *tier {
	if t := c.compiled[was.Name]; t != nil && t.key == key {
		return t
	}
	if c.former[key] == nil {
		c.former[key] = compileTier(TierRef{was.Name, key}, &was.Spec)
	}
	return c.former[key]
}

// maxWait is 0 for a tier whose requests do not wait.
func maxWait(q *v1alpha1.TierQueue) time.Duration {
	if q == nil || q.Mode != v1alpha1.QueueWait {
		return 0
	}
	return seconds(q.MaxWaitSeconds)
}

var priorities = map[v1alpha1.Priority]int{
	"":                        2,
	v1alpha1.PriorityLow:      1,
	v1alpha1.PriorityNormal:   2,
	v1alpha1.PriorityHigh:     3,
	v1alpha1.PriorityCritical: HighestPriority,
}

func (c *compiler) compileUsers() {
	for _, u := range byAge(c.in.Users, func(u *v1alpha1.UserQuota) *metav1.ObjectMeta { return &u.ObjectMeta }) {
		key := Name{u.Namespace, u.Spec.User}
		if _, taken := c.users[key]; taken {
			c.judge(KindUser, &u.ObjectMeta, Problem{
				v1alpha1.ReasonUserClaimed, "spec.user",
				"Another UserQuota of this namespace already limits the user " + u.Spec.User + "; put the limits into one object.",
			})
			continue
		}
		rules := newRuleset(&u.Spec.KeyLimits, u.Spec.Enforcement, Origin{Kind: KindUser, Namespace: u.Namespace, Name: u.Name})
		c.users[key] = newUser(nameOf(&u.ObjectMeta), u.Spec.User, rules)
		c.judge(KindUser, &u.ObjectMeta)
	}
}

// gather puts into the Table the users, the tiers as they are, and those as they were on which anything goes on.
func (c *compiler) gather() {
	t := c.table
	for _, u := range c.users {
		t.users[u.quota] = u
	}
	for _, x := range c.compiled {
		t.tiers[x.ref] = x
	}
	for _, q := range t.quotas.all() {
		if q.Holder != nil && q.Holder.tier.ref.Form != "" {
			t.tiers[q.Holder.tier.ref] = q.Holder.tier
		}
	}
	for _, g := range t.gateways {
		for _, a := range g.assigned() {
			t.tiers[a.tier.ref] = a.tier
		}
	}
}

// nameModels gathers every name by which any object calls a model; see Table.Canonical.
func (c *compiler) nameModels() {
	add := func(names []string) {
		for _, n := range names {
			c.table.named.add(n, struct{}{})
		}
	}
	for _, catalog := range c.table.catalogs() {
		add(catalog.names)
	}
	for _, t := range c.table.tiers {
		add(t.rules.models.names())
	}
	for _, u := range c.table.users {
		add(u.rules.models.names())
	}
	for _, q := range c.table.quotas.all() {
		if q.Holder == nil {
			continue
		}
		if own := q.Holder.own(); own != nil {
			add(own.models.names())
		}
	}
}
