package policy

import "time"

// A PartName tells the parts of a Table apart.
type PartName struct {
	Object
	// Form tells parts of one object apart: of a RateLimitTier, as it was when what goes on with it was last accepted (empty:
	// as it is); of a ModelLimit, by the selector of the gateways where it counts so (empty: all ModelLimits).
	Form string
}

// A Part is what a Table holds of one object: a *TierPart, *UserPart, *ModelPart, *GatewayPart or *QuotaPart. A part refers
// to others by name, so that a change of one object is a change of one part. Parts are not changed after they are made.
type Part interface {
	// PartName is the name under which the part is set and deleted.
	PartName() PartName
}

// A Rule is what one object says about one pair.
type Rule struct {
	Pair      Pair
	Algorithm Algorithm
	Unlimited bool  // lifts what others say; Max is 0
	Max       int64 // at least 0
	Status    int   // the HTTP status of a denial
	Field     string
	// Capacity is nil for all but the capacity of a ModelLimit, and for one that nobody may wait for.
	Capacity *CapacityPart
}

// A CapacityPart is what a Capacity holds beside its Max and its group.
type CapacityPart struct {
	Queue  *Queue           // nil: nobody waits
	Shares map[string]int64 // requests under way, by the name of the tier
}

// An Entry is the rules that one object has for a class, or for the models of one name or pattern.
type Entry struct {
	Name     string
	Together bool // one counter for all of them
	Rules    []Rule
}

// Rules is everything that one object says about one holder.
type Rules struct {
	Shadow    bool // recorded only
	All       []Rule
	Resources []Entry // by Name, as are the others
	Classes   []Entry
	Models    []Entry
}

// A TierRef refers to a TierPart.
type TierRef struct{ Name, Form string }

// A TierPart is a RateLimitTier, as it is or as it was.
type TierPart struct {
	TierRef
	Priority int // 1 to HighestPriority
	Pool     string
	MaxWait  time.Duration
	Alerts   []int // percent, ascending
	Rules    Rules
}

// PartName implements Part.
func (p *TierPart) PartName() PartName {
	return PartName{Object{KindTier, Name{Name: p.Name}}, p.Form}
}

// A UserPart is a UserQuota.
type UserPart struct {
	Name  Name
	User  string // spec.user, in the namespace of the UserQuota
	Rules Rules
}

// PartName implements Part.
func (p *UserPart) PartName() PartName { return PartName{Object: Object{KindUser, p.Name}} }

// A ModelPart is a ModelLimit as it counts together with the others of a selector.
type ModelPart struct {
	Name                string
	Selector            string
	Models              []string // names and patterns, sorted
	Class               string
	Resource            string
	Parent              string // another ModelLimit of the selector; empty: none
	Shared              []Rule
	PerKey              []Rule
	Shadow              bool
	DefaultOutputTokens int64 // 0: nothing is said
	CachedInputPercent  int64
}

// PartName implements Part.
func (p *ModelPart) PartName() PartName {
	return PartName{Object{KindModel, Name{Name: p.Name}}, p.Selector}
}

// A GatewayPart is what the service has to know of a QuotaGateway.
type GatewayPart struct {
	// Gateway has no listeners, backends, routes, secrets and sizes, which are its Envoys' business, and no tiers.
	Gateway       Gateway
	MissingKey    *TierRef // nil: deny
	UnknownKey    *TierRef // nil: deny
	AllNamespaces bool
	Namespaces    []string // whose keys it admits, unless those of all; sorted
	Selector      string   // of the ModelParts that count there
}

// PartName implements Part.
func (p *GatewayPart) PartName() PartName {
	return PartName{Object: Object{KindGateway, p.Gateway.Name}}
}

// A QuotaPart is an ApiKeyQuota.
type QuotaPart struct {
	Name      Name
	Suspended bool
	Expires   time.Time // zero: never
	Digests   []Digest
	Holder    *HolderPart // nil: it was never accepted
}

// PartName implements Part.
func (p *QuotaPart) PartName() PartName { return PartName{Object: Object{KindQuota, p.Name}} }

// A HolderPart is the limits of an ApiKeyQuota.
type HolderPart struct {
	Tier TierRef
	User string // the UserQuota, in the namespace of the quota; empty: none
	Own  *Rules // nil: it says nothing itself
	Both bool   // own and the tier's hold together
	// Alerts are in percent, ascending; empty: those of the tier.
	Alerts []int
}
