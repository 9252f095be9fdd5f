package policy

import (
	"cmp"
	"iter"
	"maps"
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
func Compile(in Input) (*Table, []Verdict) { return new(Compiler).Compile(in) }

func compile(in Input, before *Table, held *memory) (*Table, []Verdict) {
	c := newCompilation(in, before, held)
	c.look()
	c.compileTiers()
	c.compileUsers()
	c.compileGateways()
	c.judgeModels()
	c.compileQuotas()
	c.gather()
	c.nameModels()
	c.table.version = c.table.hash(held.sum, held.sumOfGateways())
	return c.table, c.judgeAll()
}

// compilation holds what the steps of compile hand on to each other.
type compilation struct {
	in         Input
	before     *Table  // the Compiler's last; nil: there was none
	held       *memory // what it was made of; as the steps go on, what this one is made of
	namespaces map[string]Namespace
	selections map[string]map[string]bool // by selector; see selected
	permitted  map[use]bool               // see permits
	tiers      map[string]*v1alpha1.RateLimitTier
	compiled   map[string]*tier
	users      map[Name]*user         // by namespace and spec.user
	models     []*v1alpha1.ModelLimit // by age
	catalogs   map[string]*catalog    // by selector; see catalogOf
	counting   map[string][]*catalog  // by namespace; see catalogsFor
	changed    map[string]bool        // by namespace; see recounted
	worst      map[plan]int           // see mostLimits
	former     map[string]*tier       // by AcceptedQuota.Tier; see tierAs
	bare       map[bareKey][]Limit    // see bareLimits
	gateways   []*Gateway             // all that are served, by name
	quotas     []*heldQuota           // all that there are
	gone       bool                   // some that there were are not
	sums       map[*ruleset][]byte
	line       []byte // see sumOf
	table      *Table
	anew       []Verdict // on quotas that were made anew
	verdicts   []Verdict // on all but quotas and users
}

func newCompilation(in Input, before *Table, held *memory) *compilation {
	c := &compilation{
		in:         in,
		before:     before,
		held:       held,
		namespaces: map[string]Namespace{},
		selections: map[string]map[string]bool{},
		permitted:  map[use]bool{},
		bare:       map[bareKey][]Limit{},
		catalogs:   map[string]*catalog{},
		counting:   map[string][]*catalog{},
		changed:    map[string]bool{},
		models:     byAge(in.Models),
		former:     map[string]*tier{},
		tiers:      map[string]*v1alpha1.RateLimitTier{},
		compiled:   map[string]*tier{},
		worst:      map[plan]int{},
		sums:       map[*ruleset][]byte{},
		table: &Table{
			gateways: map[Name]*Gateway{}, tiers: map[TierRef]*tier{},
			lastTiers: map[string]AcceptedTier{}, lastGateways: map[string]AcceptedGateway{},
		},
	}
	for _, n := range in.Namespaces {
		c.namespaces[n.Name] = n
	}
	c.rememberModels()
	c.table.models = c.catalogOf(nil)
	return c
}

func (c *compilation) judge(kind string, obj *metav1.ObjectMeta, problems ...Problem) {
	c.verdicts = append(c.verdicts, newVerdict(kind, obj, problems))
}

func newVerdict(kind string, obj *metav1.ObjectMeta, problems []Problem) Verdict {
	return Verdict{Object{Kind: kind, Name: nameOf(obj)}, obj.UID, obj.Generation, problems}
}

func compareVerdicts(a, b Verdict) int {
	return cmp.Or(strings.Compare(a.Object.Kind, b.Object.Kind), compareNames(a.Object.Name, b.Object.Name))
}

func nameOf(obj *metav1.ObjectMeta) Name { return Name{obj.Namespace, obj.Name} }

// byAge returns the objects in the order in which they may claim what only one can have: the older first, then by
// namespace and name.
func byAge[T metav1.ObjectMetaAccessor](objects []T) []T {
	sorted := slices.Clone(objects)
	slices.SortFunc(sorted, func(x, y T) int { return compareAges(metaOf(x), metaOf(y)) })
	return sorted
}

func metaOf(o metav1.ObjectMetaAccessor) *metav1.ObjectMeta {
	return o.GetObjectMeta().(*metav1.ObjectMeta)
}

func compareAges(a, b *metav1.ObjectMeta) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), compareNames(nameOf(a), nameOf(b)))
}

func (c *compilation) compileTiers() {
	held := make(map[string]heldTier, len(c.in.Tiers))
	for _, t := range byAge(c.in.Tiers) {
		var problems []Problem
		if n := t.Spec.AllowedNamespaces; n != nil {
			problems = checkSelector(n.Selector, "spec.allowedNamespaces.selector")
		}
		c.judge(KindTier, &t.ObjectMeta, problems...)
		if len(problems) == 0 {
			c.tiers[t.Name], c.compiled[t.Name] = t, c.tierOf(t)
			held[t.Name] = heldTier{identityOf(&t.ObjectMeta), c.compiled[t.Name]}
			c.table.lastTiers[c.compiled[t.Name].key] = acceptedTier(t)
		}
	}
	c.held.tiers = held
}

func compileTier(ref TierRef, spec *v1alpha1.RateLimitTierSpec) *tier {
	terms := Terms{Priority: priorities[spec.Priority], Pool: spec.BackendPool, MaxWait: maxWait(spec.Queue), Alerts: alerts(spec.Alerts)}
	return newTier(ref, terms, newRuleset(&spec.KeyLimits, spec.Enforcement, Origin{Kind: KindTier, Name: ref.Name}))
}

func newTier(ref TierRef, terms Terms, rules *ruleset) *tier {
	terms.Tier = ref.Name
	return &tier{Terms: terms, ref: ref, rules: rules, alone: []*ruleset{rules}}
}

// tierAs is the tier as it is now if the spec is that, or as it was by the spec, which key names. It compiles a former tier
// once for all that were on it.
func (c *compilation) tierAs(key string, was *AcceptedTier) *tier {
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

// compileUsers lets the oldest of several that name one user limit it.
func (c *compilation) compileUsers() {
	if !c.sameUsers() {
		c.held.users = c.newUsers()
	}
	c.users, c.table.users = c.held.users.named, c.held.users.limiting
}

func (c *compilation) newUsers() heldUsers {
	users := newHeldUsers(len(c.in.Users))
	oldest := make(map[Name]*v1alpha1.UserQuota, len(c.in.Users))
	for _, u := range c.in.Users {
		key := Name{u.Namespace, u.Spec.User}
		if other := oldest[key]; other == nil || compareAges(&u.ObjectMeta, &other.ObjectMeta) < 0 {
			oldest[key] = u
		}
	}
	for _, u := range c.in.Users {
		key := Name{u.Namespace, u.Spec.User}
		if oldest[key] != u {
			users.refuse(u, Problem{
				v1alpha1.ReasonUserClaimed, "spec.user",
				"Another UserQuota of this namespace already limits the user " + u.Spec.User + "; put the limits into one object.",
			})
			continue
		}
		users.take(u, c.userOf(u))
	}
	slices.SortFunc(users.verdicts, compareVerdicts)
	return users
}

// userNamed is nil where nothing limits the user, or there is none.
func (c *compilation) userNamed(namespace, name string) *user {
	if name == "" {
		return nil
	}
	return c.users[Name{namespace, name}]
}

// gather puts into the Table the quotas, the tiers as they are, and those as they were on which anything goes on.
func (c *compilation) gather() {
	t, held := c.table, c.held
	t.quotas, t.keys = held.byName.share(), held.byKey.share()
	held.catalogs, held.counting = c.catalogs, c.counting
	for _, tiers := range []map[string]*tier{c.compiled, c.former} {
		for _, x := range tiers {
			t.tiers[x.ref] = x
		}
	}
}

// nameModels gathers every name by which any object calls a model; see Table.Canonical.
func (c *compilation) nameModels() {
	all := make(map[string]bool, len(c.held.namedAll))
	add := func(names iter.Seq[string]) {
		for n := range names {
			all[n] = true
		}
	}
	for _, catalog := range c.table.catalogs() {
		add(slices.Values(catalog.names))
	}
	for _, t := range c.table.tiers {
		add(t.rules.models.each())
	}
	add(maps.Keys(c.held.users.names))
	add(maps.Keys(c.held.names))
	if !maps.Equal(all, c.held.namedAll) {
		c.held.named, c.held.namedAll = matcher[struct{}]{}, all
		for n := range all {
			c.held.named.add(n, struct{}{})
		}
	}
	c.table.named = c.held.named
}
