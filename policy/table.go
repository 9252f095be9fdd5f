package policy

import (
	"net/netip"
	"strings"
	"time"
)

// A Table is every limit in force. It is immutable and safe for concurrent use: a change makes a new Table.
type Table struct {
	keys     sharded[Digest, *Credential]
	quotas   sharded[Name, *Credential]
	gateways map[Name]*Gateway
	models   *catalog // all ModelLimits
	tiers    map[TierRef]*tier
	users    map[Name]*user // by UserQuota
	named    matcher[struct{}]
	version  string

	lastTiers    map[string]AcceptedTier    // by AcceptedQuota.Tier; more than there are AcceptedQuotas on
	lastGateways map[string]AcceptedGateway // by Name.String
}

// Version is a hash of the content: equal Tables have equal versions, on every replica.
func (t *Table) Version() string { return t.version }

// Lookup finds whose key has the digest. A digest that any ApiKeyQuota names is found, even one that must be refused.
func (t *Table) Lookup(d Digest) (*Credential, bool) {
	return t.keys.get(d)
}

// Quota finds an ApiKeyQuota by its name.
func (t *Table) Quota(n Name) (*Credential, bool) {
	return t.quotas.get(n)
}

// Quotas names all ApiKeyQuotas, in no order.
func (t *Table) Quotas() []Name {
	names := make([]Name, 0, t.quotas.len())
	for n := range t.quotas.all() {
		names = append(names, n)
	}
	return names
}

// Gateway finds a QuotaGateway by "namespace/name".
func (t *Table) Gateway(name string) (*Gateway, bool) {
	namespace, name, _ := strings.Cut(name, "/")
	g, ok := t.gateways[Name{namespace, name}]
	return g, ok
}

// GatewayFor finds a gateway that admits keys of the namespace; nil if none does. Same is false if there are several and
// different ModelLimits count there.
func (t *Table) GatewayFor(namespace string) (g *Gateway, same bool) {
	for _, other := range t.Gateways() {
		switch {
		case !other.Admits(namespace):
		case g == nil:
			g = other
		case g.models != other.models:
			return g, false
		}
	}
	return g, true
}

// Standing says whether a key is honoured.
type Standing uint8

// The standings.
const (
	Active    Standing = iota
	Suspended          // spec.desiredState is Suspended
	Pending            // the quota was never accepted, so nobody knows what holds
	Expired            // spec.expirationTime has passed
)

// Refusal says that requests with the key are refused whatever the limits; empty if they are not.
func (s Standing) Refusal() string {
	switch s {
	case Suspended:
		return "This ApiKeyQuota is suspended (spec.desiredState), so requests with its keys are answered 401."
	case Expired:
		return "This ApiKeyQuota has expired (spec.expirationTime), so requests with its keys are answered 401."
	case Pending:
		return "This ApiKeyQuota was never accepted, so requests with its keys are answered 401."
	case Active:
	}
	return ""
}

// A Credential is what a key stands for.
type Credential struct {
	Quota    Name
	Holder   *Holder // nil while Pending
	standing Standing
	expires  time.Time      // zero: never
	digests  []Digest       // of the keys that are the quota's, sorted
	last     *AcceptedQuota // nil where nobody compiled it, or it was never accepted
}

// Standing says whether the key is honoured at that time.
func (c *Credential) Standing(now time.Time) Standing {
	if c.standing == Active && !c.expires.IsZero() && !now.Before(c.expires) {
		return Expired
	}
	return c.standing
}

// Expires is when an Active key is honoured no longer; zero: never.
func (c *Credential) Expires() time.Time { return c.expires }

// A Holder is one for whom limits are counted: an ApiKeyQuota, or a client address that a gateway assigned a tier.
// There are many, so what they have in common they share.
type Holder struct {
	Name   string     // "namespace/name" of the quota, or what describes the address
	Client netip.Addr // of an address: ClientNetwork; the zero value for a quota
	*Terms            // those of its tier, unless it has Alerts of its own; never nil in a Table

	subject string
	tier    *tier
	own     *ruleset // goes before those of the tier; nil where it says nothing itself
	user    *user
	both    bool // own does not replace limits of the tier: they hold together
	probe   bool // for checks: Unlimited shows as a limit beyond all others, and limits have no Counter
}

// Terms are what a tier gives its holders beside limits.
type Terms struct {
	Tier     string
	Priority int    // 1 (Low) to 4 (Critical)
	Pool     string // of endpoints that serve its requests; empty: those without one
	// MaxWait is the longest that a request may wait for a model's capacity; 0: it must not wait.
	MaxWait time.Duration
	// Alerts are the parts of a limit's max, in percent, at whose use people are told, ascending.
	Alerts []int
}

// newHolder makes the holder of a quota. Own is nil where the quota says nothing, user where nothing limits its user.
func newHolder(quota Name, own *ruleset, t *tier, u *user) *Holder {
	name := quota.String()
	return &Holder{Name: name, Terms: &t.Terms, subject: name, tier: t, own: own, user: u}
}

// alertAt gives the holder Alerts of its own, also where they are equal to its tier's. It must not be called once others see it.
func (h *Holder) alertAt(percents []int) {
	terms := *h.Terms
	terms.Alerts = percents
	h.Terms = &terms
}

// sources are the rules of the holder, to be read only: what goes first in precedence stands first.
func (h *Holder) sources() []*ruleset {
	if h.own == nil {
		return h.tier.alone
	}
	return []*ruleset{h.own, h.tier.rules}
}

// user is what all keys of one user share.
type user struct {
	quota   Name // the UserQuota
	name    string
	subject string
	rules   *ruleset
}

func newUser(quota Name, name string, rules *ruleset) *user {
	return &user{quota: quota, name: name, subject: quota.Namespace + "/" + name, rules: rules}
}

// group is an accepted ModelLimit.
type group struct {
	name          string
	class         string
	resource      string
	shared        []rule // capacity included
	perKey        []rule
	shadow        bool // recorded only
	parent        *group
	defaultOutput int64 // 0: nothing is said
	cachedPercent int64
}

// model is what is known of a model that a request asks for.
type model struct {
	name  string
	entry string // the name or pattern by which a ModelLimit knows it; empty if none does
	group *group
}

func (c *catalog) model(name string) model {
	m := model{name: name}
	if name != "" {
		m.entry, m.group, _ = c.groups.find(name)
	}
	return m
}

// catalog is that of the gateway, or of all ModelLimits where there is none.
func (t *Table) catalog(g *Gateway) *catalog {
	if g == nil {
		return t.models
	}
	return g.models
}

// Resource is the resource that a ModelLimit says the model serves; empty if none says. Without a gateway all ModelLimits
// count.
func (t *Table) Resource(g *Gateway, model string) string {
	if group := t.catalog(g).model(model).group; group != nil {
		return group.resource
	}
	return ""
}

// Canonical names the set of models that no object tells from the given one: the exact name or the longest pattern by
// which any object calls it, or nothing. Resolve gives equal results for equal canonical names, so that results can be
// kept by it, and clients who make up names cannot fill a cache.
func (t *Table) Canonical(model string) string {
	name, _, _ := t.named.find(model)
	return name
}

// An Assigned is a tier that a gateway assigns to requests without a key of its own.
type Assigned struct {
	gateway Name
	tier    *tier
}

// ClientNetwork is the address for which a client on an assigned tier is counted: its own, or the first of its /64 for
// IPv6, within which a client picks addresses at will.
func ClientNetwork(client netip.Addr) netip.Addr {
	client = client.Unmap().WithZone("")
	if client.Is6() {
		return netip.PrefixFrom(client, 64).Masked().Addr()
	}
	return client
}

// Holder makes the holder for the network of a client.
func (a *Assigned) Holder(client netip.Addr) *Holder {
	address := ClientNetwork(client)
	network := address.String()
	return &Holder{
		Name: "client " + network, Client: address, Terms: &a.tier.Terms,
		subject: "client " + network + " of " + a.gateway.String(), tier: a.tier,
	}
}

// tier is an accepted RateLimitTier, as it is or as it was.
type tier struct {
	Terms
	ref   TierRef
	key   string // in Accepted.Tiers; empty for a former tier, whose form it is
	rules *ruleset
	alone []*ruleset // rules, as the sources of all who say nothing themselves
}

// Gateways lists the gateways by name.
func (t *Table) Gateways() []*Gateway { return sortedByName(t.gateways) }
