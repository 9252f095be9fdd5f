package policy

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// A catalog is the ModelLimits that count together: those that one gateway selects, or all of them. Which of two that name
// the same model counts, and who is whose parent, is decided within it. It is immutable.
type catalog struct {
	selector string // as labels.Selector writes it; empty: all
	groups   matcher[*group]
	names    []string             // of groups, sorted
	problems map[string][]Problem // by the name of the ModelLimit
	perKey   uint32               // pairs that any ModelLimit's perKey mentions
	shared   int                  // the largest number of shared limits that one model meets
}

// catalogOf is the catalog of a selector, which is valid; nil selects all.
func (c *compilation) catalogOf(s *metav1.LabelSelector) *catalog {
	selector := labels.Everything()
	if s != nil {
		selector, _ = metav1.LabelSelectorAsSelector(s)
	}
	key := selector.String()
	if c.catalogs[key] == nil {
		c.catalogs[key] = c.held.catalogs[key]
	}
	if c.catalogs[key] == nil {
		var selected []*v1alpha1.ModelLimit
		for _, m := range c.models {
			if selector.Matches(labels.Set(m.Labels)) {
				selected = append(selected, m)
			}
		}
		c.catalogs[key] = newCatalog(key, selected)
	}
	return c.catalogs[key]
}

// newCatalog forms the groups first, so that a parent may be younger than its children, and joins them afterwards. The models
// are sorted by age.
func newCatalog(selector string, models []*v1alpha1.ModelLimit) *catalog {
	c := &catalog{selector: selector, problems: map[string][]Problem{}}
	groups := map[string]*group{}
	owners := map[string]string{}
	for _, m := range models {
		if p := conflict(m, owners); p != nil {
			c.problems[m.Name] = []Problem{*p}
			continue
		}
		g := newGroup(m)
		groups[m.Name] = g
		for _, name := range m.Spec.Models {
			owners[name] = m.Name
			c.groups.add(name, g)
		}
	}
	parents := map[string]string{}
	for _, m := range models {
		if m.Spec.ParentRef != nil && groups[m.Name] != nil {
			parents[m.Name] = m.Spec.ParentRef.Name
		}
	}
	for name, g := range groups {
		if p := g.join(groups, parents); p != nil {
			c.problems[name] = p
		}
	}
	for name, g := range groups {
		if p := g.oneQueue(); p != nil {
			c.problems[name] = p
		}
	}
	c.measure()
	return c
}

// measure notes what checkSize has to know.
func (c *catalog) measure() {
	c.names = c.groups.names()
	for _, name := range c.names {
		g, _ := c.groups.said(name)
		c.perKey |= bitsOf(g.perKey)
		n := g.sharedCounters()
		if g.parent != nil {
			n += g.parent.sharedCounters()
		}
		c.shared = max(c.shared, n)
	}
}

// catalogsFor lists the catalogs that count for keys of a namespace: those of the gateways that admit them.
func (c *compilation) catalogsFor(namespace string) []*catalog {
	if known, ok := c.counting[namespace]; ok {
		return known
	}
	var all []*catalog
	for _, g := range c.gateways {
		if g.Admits(namespace) && !slices.Contains(all, g.models) {
			all = append(all, g.models)
		}
	}
	if len(all) == 0 {
		all = []*catalog{c.catalogOf(nil)}
	}
	c.counting[namespace] = all
	return all
}

// catalogs lists the catalogs that count anywhere, by their selectors.
func (t *Table) catalogs() map[string]*catalog {
	all := map[string]*catalog{t.models.selector: t.models}
	for _, g := range t.gateways {
		all[g.models.selector] = g.models
	}
	return all
}

// judgeModels says of each ModelLimit whether it counts wherever it is selected.
func (c *compilation) judgeModels() {
	for _, m := range c.models {
		c.judge(KindModel, &m.ObjectMeta, slices.Concat(c.modelProblems(m.Name), c.shareProblems(m))...)
	}
}

// modelProblems are those at the first gateway that has any; without gateways, those among all ModelLimits.
func (c *compilation) modelProblems(name string) []Problem {
	if len(c.gateways) == 0 {
		return c.table.models.problems[name]
	}
	for _, g := range c.gateways {
		problems := slices.Clone(g.models.problems[name])
		if g.models != c.table.models {
			for i := range problems {
				problems[i].Message += fmt.Sprintf(" (So it is at QuotaGateway %s, by its spec.modelLimitSelector.)", g.Name)
			}
		}
		if len(problems) > 0 {
			return problems
		}
	}
	return nil
}

func conflict(m *v1alpha1.ModelLimit, owners map[string]string) *Problem {
	for _, name := range m.Spec.Models {
		if owner, taken := owners[name]; taken {
			return &Problem{
				v1alpha1.ReasonModelConflict, fmt.Sprintf("spec.models[%s]", name),
				fmt.Sprintf("ModelLimit %s already names %s; a name or pattern can belong to one ModelLimit only.", owner, name),
			}
		}
	}
	return nil
}

func newGroup(m *v1alpha1.ModelLimit) *group {
	from := Origin{Kind: KindModel, Name: m.Name}
	g := &group{
		name:     m.Name,
		class:    m.Spec.Class,
		resource: m.Spec.Resource,
		shared:   newRules(m.Spec.Shared, from, "spec.shared"),
		perKey:   newRules(m.Spec.PerKey, from, "spec.perKey"),
		shadow:   m.Spec.Enforcement == v1alpha1.EnforcementShadow,

		cachedPercent: wholePercent,
	}
	if m.Spec.Capacity != nil {
		g.shared = append(g.shared, newCapacity(m.Name, m.Spec.Capacity, from))
	}
	if t := m.Spec.Tokens; t != nil {
		g.defaultOutput = t.DefaultOutputTokens
		if t.CachedInputPercent != nil {
			g.cachedPercent = int64(*t.CachedInputPercent)
		}
	}
	return g
}

// sharedCounters is how many counters of the group itself one request meets.
func (g *group) sharedCounters() int {
	if c := g.capacity(); c != nil && len(c.Shares) > 0 {
		return len(g.shared) + 1
	}
	return len(g.shared)
}

func (g *group) join(groups map[string]*group, parents map[string]string) []Problem {
	name, has := parents[g.name]
	if !has {
		return nil
	}
	problem := func(message string) []Problem {
		return []Problem{{v1alpha1.ReasonParentNotFound, "spec.parentRef.name", message + " The group's own limits hold meanwhile."}}
	}
	parent, found := groups[name]
	switch _, grand := parents[name]; {
	case name == g.name:
		return problem("A ModelLimit cannot be its own parent.")
	case !found:
		return problem(fmt.Sprintf("There is no accepted ModelLimit %s.", name))
	case grand:
		return problem(fmt.Sprintf("ModelLimit %s has a parent itself, and groups nest one level deep; name a ModelLimit without parentRef.", name))
	}
	g.parent = parent
	return nil
}
