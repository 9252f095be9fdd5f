package policy

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// dump is the whole content of a Table in a fixed order, without secret material: what "tierkeeper compile" shows, and
// what hash covers.
type dump struct {
	Quotas   []quotaDump   `json:"quotas"`
	Models   []groupDump   `json:"models"`
	Gateways []gatewayDump `json:"gateways"`
}

type quotaDump struct {
	Name     string      `json:"name"`
	Tier     string      `json:"tier,omitempty"`
	Priority int         `json:"priority,omitempty"`
	Pool     string      `json:"pool,omitempty"`
	MaxWait  string      `json:"maxWait,omitempty"` // for a model's capacity
	Alerts   []int       `json:"alerts,omitempty"`  // where they are not the default ones
	Standing string      `json:"standing"`
	Expires  *time.Time  `json:"expires,omitempty"`
	Keys     []string    `json:"keys,omitempty"` // digests
	Says     []rulesDump `json:"says,omitempty"` // what goes first in precedence stands first
	Both     bool        `json:"both,omitempty"` // no part of says replaces another: they hold together
	User     *userDump   `json:"user,omitempty"`
}

type userDump struct {
	Subject string    `json:"subject"`
	Says    rulesDump `json:"says"`
}

type rulesDump struct {
	Shadow    bool                  `json:"shadow,omitempty"`
	All       []ruleDump            `json:"all,omitempty"`
	Resources map[string][]ruleDump `json:"resources,omitempty"`
	Classes   map[string]entryDump  `json:"classes,omitempty"`
	Models    map[string]entryDump  `json:"models,omitempty"`
}

type entryDump struct {
	Together bool       `json:"together,omitempty"`
	Rules    []ruleDump `json:"rules"`
}

type ruleDump struct {
	Metric    Metric    `json:"metric"`
	Per       Per       `json:"per,omitempty"`
	Algorithm Algorithm `json:"algorithm,omitempty"` // absent: FixedWindow
	Unlimited bool      `json:"unlimited,omitempty"`
	Max       int64     `json:"max"`
	Status    int       `json:"status"`
	Origin    Origin    `json:"origin"`
}

type groupDump struct {
	Name          string     `json:"name"`
	Models        []string   `json:"models"`
	Class         string     `json:"class,omitempty"`
	Resource      string     `json:"resource,omitempty"`
	Parent        string     `json:"parent,omitempty"`
	Shared        []ruleDump `json:"shared,omitempty"`
	PerKey        []ruleDump `json:"perKey,omitempty"`
	DefaultOutput int64      `json:"defaultOutputTokens,omitempty"`
	CachedPercent int64      `json:"cachedInputPercent"`
	Capacity      *Capacity  `json:"capacity,omitempty"`
	Shadow        bool       `json:"shadow,omitempty"`
}

type gatewayDump struct {
	*Gateway
	MissingKey *assignedDump `json:"MissingKey,omitempty"`
	UnknownKey *assignedDump `json:"UnknownKey,omitempty"`
	Admits     []string      `json:"Admits,omitempty"` // namespaces that hold quotas
	Models     []groupDump   `json:"Models,omitempty"` // that count here, where not all do
}

type assignedDump struct {
	Tier     string    `json:"tier"`
	Priority int       `json:"priority"`
	Pool     string    `json:"pool,omitempty"`
	MaxWait  string    `json:"maxWait,omitempty"`
	Alerts   []int     `json:"alerts,omitempty"` // where they are not the default ones
	Says     rulesDump `json:"says"`
}

var standingNames = []string{"Active", "Suspended", "Pending", "Expired"}

// String is the name that "tierkeeper compile" shows.
func (s Standing) String() string { return standingNames[s] }

// MarshalJSON writes the whole content in a fixed order. API keys appear as digests.
func (t *Table) MarshalJSON() ([]byte, error) { return json.Marshal(t.dump()) }

func (t *Table) dump() dump {
	namespaces := map[string]bool{}
	for n := range t.quotas.all() {
		namespaces[n.Namespace] = true
	}
	return dump{Quotas: t.dumpQuotas(), Models: t.models.dump(), Gateways: t.dumpGateways(slices.Sorted(maps.Keys(namespaces)))}
}

func (t *Table) dumpQuotas() []quotaDump {
	out := []quotaDump{}
	for _, c := range t.sortedQuotas() {
		q := quotaDump{Name: c.Quota.String(), Standing: c.standing.String()}
		for _, d := range c.digests {
			q.Keys = append(q.Keys, d.String())
		}
		if !c.expires.IsZero() {
			q.Expires = &c.expires
		}
		if h := c.Holder; h != nil {
			q.Tier, q.Priority, q.Pool, q.MaxWait, q.Both = h.Tier, h.Priority, h.Pool, dumpWait(h.MaxWait), h.both
			q.Alerts = dumpAlerts(h.Alerts)
			for _, rs := range h.sources() {
				q.Says = append(q.Says, rs.dump())
			}
			if h.user != nil {
				q.User = &userDump{h.user.subject, h.user.rules.dump()}
			}
		}
		out = append(out, q)
	}
	return out
}

func (rs *ruleset) dump() rulesDump {
	d := rulesDump{Shadow: rs.shadow, All: dumpRules(rs.all), Resources: map[string][]ruleDump{}, Classes: map[string]entryDump{}, Models: map[string]entryDump{}}
	for name, rules := range rs.resources {
		d.Resources[name] = dumpRules(rules)
	}
	for name, e := range rs.classes {
		d.Classes[name] = entryDump{e.together, dumpRules(e.rules)}
	}
	for _, name := range rs.models.names() {
		e, _ := rs.models.said(name)
		d.Models[name] = entryDump{e.together, dumpRules(e.rules)}
	}
	return d
}

func dumpRules(rules []rule) []ruleDump {
	out := make([]ruleDump, 0, len(rules))
	for _, r := range rules {
		out = append(out, ruleDump{r.pair.Metric, r.pair.Per, r.algorithm, r.unlimited, r.max, r.status, r.origin})
	}
	return out
}

func (c *catalog) dump() []groupDump {
	byName := map[string]*groupDump{}
	for _, name := range c.names {
		g, _ := c.groups.said(name)
		d := byName[g.name]
		if d == nil {
			d = &groupDump{
				Name: g.name, Class: g.class, Resource: g.resource, DefaultOutput: g.defaultOutput, CachedPercent: g.cachedPercent,
				Shared: dumpRules(g.shared), PerKey: dumpRules(g.perKey), Capacity: g.capacity(), Shadow: g.shadow,
			}
			if g.parent != nil {
				d.Parent = g.parent.name
			}
			byName[g.name] = d
		}
		d.Models = append(d.Models, name)
	}
	out := []groupDump{}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, *byName[name])
	}
	return out
}

// dumpGateways is given the namespaces that hold quotas, sorted.
func (t *Table) dumpGateways(namespaces []string) []gatewayDump {
	out := []gatewayDump{}
	for _, g := range sortedByName(t.gateways) {
		d := t.dumpGateway(g)
		for _, n := range namespaces {
			if g.Admits(n) {
				d.Admits = append(d.Admits, n)
			}
		}
		out = append(out, d)
	}
	return out
}

// dumpGateway leaves out whom the gateway admits.
func (t *Table) dumpGateway(g *Gateway) gatewayDump {
	d := gatewayDump{Gateway: g, MissingKey: g.MissingKey.dump(), UnknownKey: g.UnknownKey.dump()}
	if g.models != t.models {
		d.Models = g.models.dump()
	}
	return d
}

func (a *Assigned) dump() *assignedDump {
	if a == nil {
		return nil
	}
	return &assignedDump{
		a.tier.ref.Name, a.tier.Priority, a.tier.Pool, dumpWait(a.tier.MaxWait), dumpAlerts(a.tier.Alerts), a.tier.rules.dump(),
	}
}

func dumpAlerts(percent []int) []int {
	if slices.Equal(percent, defaultAlerts) {
		return nil
	}
	return percent
}

func dumpWait(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

func (t *Table) sortedQuotas() []*Credential {
	out := make([]*Credential, 0, t.quotas.len())
	for _, c := range t.quotas.all() {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Credential) int { return compareNames(a.Quota, b.Quota) })
	return out
}

func sortedByName[T any](m map[Name]T) []T {
	names := slices.SortedFunc(maps.Keys(m), compareNames)
	out := make([]T, 0, len(m))
	for _, n := range names {
		out = append(out, m[n])
	}
	return out
}
