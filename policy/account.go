package policy

import (
	"cmp"
	"slices"
	"strings"
)

// An Account is the limits by which the use of one object is told: those that count for an ApiKeyQuota, or for a UserQuota.
type Account struct {
	Object Object
	// Alerts are the parts of a limit's max, in percent, at whose use people are told, ascending.
	Alerts []int
	// Limits are by scope, entry and pair, and no two have one counter. Those that are only recorded are not among them, nor is
	// what everybody shares.
	Limits []Limit
}

// Accounts are that of an ApiKeyQuota and, where a UserQuota limits its user, that of the UserQuota, which is the same for all
// quotas of the user. A quota without a Holder has none. They hold every limit that a request of the quota could meet at any
// gateway that admits it, whatever model or resource it asks for; where several gateways set one counter different limits, the
// smallest.
//
// It tries the models that the quota's own objects name, and those of ModelLimits that say something of it: the work does not
// grow with the number of quotas.
func (t *Table) Accounts(c *Credential) []Account {
	if c.Holder == nil {
		return nil
	}
	met := meeting{at: map[string]int{}}
	for _, models := range t.enforcedBy(c.Quota.Namespace) {
		for _, p := range models.pointsOf(c.Holder) {
			met.add(models.resolve(c.Holder, p.model, p.resource, false).Limits)
		}
	}
	slices.SortFunc(met.limits, compareLimits)
	accounts := []Account{{Object: Object{KindQuota, c.Quota}, Alerts: c.Holder.Alerts}}
	var ofUser []Limit
	for _, l := range met.limits {
		if l.Scope.ofUser() {
			ofUser = append(ofUser, *l)
		} else {
			accounts[0].Limits = append(accounts[0].Limits, *l)
		}
	}
	if len(ofUser) > 0 {
		// All limits of a user stand in one object.
		accounts = append(accounts, Account{Object: ofUser[0].Origin.Object(), Alerts: defaultAlerts, Limits: ofUser})
	}
	return accounts
}

func (s Scope) ofUser() bool { return s == ScopeUser || s == ScopeUserResource || s == ScopeUserModel }

func compareLimits(a, b *Limit) int {
	return cmp.Or(cmp.Compare(a.Scope, b.Scope), strings.Compare(a.Entry, b.Entry), cmp.Compare(a.Pair.Metric, b.Pair.Metric),
		cmp.Compare(a.Pair.Per, b.Pair.Per), strings.Compare(a.Counter, b.Counter))
}

// enforcedBy lists the catalogs by which requests of the namespace's keys are refused. Where no gateway admits them, all
// ModelLimits count, as in GatewayFor.
func (t *Table) enforcedBy(namespace string) []*catalog {
	var all []*catalog
	admitted := false
	for _, g := range t.Gateways() {
		if !g.Admits(namespace) {
			continue
		}
		admitted = true
		if !g.Shadow && !slices.Contains(all, g.models) {
			all = append(all, g.models)
		}
	}
	if !admitted {
		return []*catalog{t.models}
	}
	return all
}

// A meeting is the limits that requests meet, each counter once.
type meeting struct {
	limits []*Limit
	at     map[string]int // in limits, by counter
}

func (m *meeting) add(limits []Limit) {
	for i := range limits {
		l := &limits[i]
		if l.Shadow || l.Scope == ScopeModelShared {
			continue
		}
		known, ok := m.at[l.Counter]
		switch {
		case !ok:
			m.at[l.Counter] = len(m.limits)
			m.limits = append(m.limits, l)
		case l.Max < m.limits[known].Max:
			m.limits[known] = l
		}
	}
}

// pointsOf lists points of which each limit of the holder holds at one at least: limits by model do not depend on the
// resource, nor the other way round.
func (c *catalog) pointsOf(h *Holder) []point {
	sets := slices.Clone(h.sources())
	if h.user != nil {
		sets = append(sets, h.user.rules)
	}
	points := []point{{}}
	for _, rs := range sets {
		for resource := range rs.resources {
			points = append(points, point{resource: resource})
		}
	}
	for _, p := range c.points(sets...) {
		said := func(rs *ruleset) bool { return c.speaksAt(rs, p) }
		if slices.ContainsFunc(sets, said) || len(c.perKeyAt(p)) > 0 {
			points = append(points, p)
		}
	}
	return points
}

// perKeyAt is what a ModelLimit says of each key's requests for the model.
func (c *catalog) perKeyAt(p point) []rule {
	if g := c.model(p.model).group; g != nil {
		return g.perKey
	}
	return nil
}

// QuotaName is the name of the ApiKeyQuota of which the holder is; not ok for a client that a gateway assigned a tier.
func (h *Holder) QuotaName() (n Name, ok bool) {
	if h.Client.IsValid() {
		return n, false
	}
	n.Namespace, n.Name, ok = strings.Cut(h.Name, "/")
	return n, ok
}
