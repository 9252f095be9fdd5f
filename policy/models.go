package policy

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// compileModels forms the groups first, so that a parent may be younger than its children, and joins them afterwards.
func (c *compiler) compileModels() {
	models := byAge(c.in.Models, func(m *v1alpha1.ModelLimit) *metav1.ObjectMeta { return &m.ObjectMeta })
	groups := map[string]*group{}
	owners := map[string]string{}
	for _, m := range models {
		if p := conflict(m, owners); p != nil {
			c.judge(KindModel, &m.ObjectMeta, *p)
			continue
		}
		g := newGroup(m)
		groups[m.Name] = g
		for _, name := range m.Spec.Models {
			owners[name] = m.Name
			c.table.groups.add(name, g)
		}
	}
	parents := map[string]string{}
	for _, m := range models {
		if m.Spec.ParentRef != nil && groups[m.Name] != nil {
			parents[m.Name] = m.Spec.ParentRef.Name
		}
	}
	for _, m := range models {
		if g := groups[m.Name]; g != nil {
			c.judge(KindModel, &m.ObjectMeta, g.join(groups, parents)...)
		}
	}
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
	}
	if m.Spec.Tokens != nil {
		g.defaultOutput = m.Spec.Tokens.DefaultOutputTokens
	}
	return g
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
