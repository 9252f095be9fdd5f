// Package policy decides, from every object that the user wrote, which limits hold for which request.
//
// It reads nothing and writes nothing: Compile is a function of its Input and Resolve a function of the Table that
// Compile made. Precedence between objects, the identity of counters, tenancy and the verdict on each object are decided
// here and nowhere else.
package policy

import (
	"maps"
	"strings"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// A Name tells objects of one kind apart. Namespace is empty for kinds of cluster scope.
type Name struct{ Namespace, Name string }

// String is "namespace/name", or "name" where there is no namespace.
func (n Name) String() string {
	if n.Namespace == "" {
		return n.Name
	}
	return n.Namespace + "/" + n.Name
}

func compareNames(a, b Name) int {
	if a.Namespace != b.Namespace {
		return strings.Compare(a.Namespace, b.Namespace)
	}
	return strings.Compare(a.Name, b.Name)
}

// An Input is one consistent view of the objects a compilation reads. The order of its lists means nothing.
type Input struct {
	Namespaces []Namespace
	Tiers      []v1alpha1.RateLimitTier
	Models     []v1alpha1.ModelLimit
	Quotas     []v1alpha1.ApiKeyQuota
	Users      []v1alpha1.UserQuota
	Gateways   []v1alpha1.QuotaGateway
	Secrets    map[Name]Secret

	// LastAccepted is what an earlier compilation found to be in order, by which an object that is not accepted now goes on.
	LastAccepted Accepted
}

// A Namespace is a namespace and its labels. One that is not listed has none but kubernetes.io/metadata.name.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// A Secret is what may be known of a Secret: never its content.
type Secret struct {
	Labelled bool           // carries v1alpha1.SecretLabel
	Keys     map[string]Key // by key of its data; empty unless Labelled
}

// Accepted holds what Compile needs to let an object that is no longer accepted go on as before. It is kept across
// restarts, so its JSON form is stable.
type Accepted struct {
	Quotas   map[string]AcceptedQuota   `json:"quotas,omitempty"`   // by Name.String
	Gateways map[string]AcceptedGateway `json:"gateways,omitempty"` // by Name.String
}

// Inherit adds what earlier has and a lacks.
func (a *Accepted) Inherit(earlier Accepted) {
	a.Quotas, a.Gateways = inherit(a.Quotas, earlier.Quotas), inherit(a.Gateways, earlier.Gateways)
}

// inherit makes a map of its own, because a Table holds the other one.
func inherit[T any](own, earlier map[string]T) map[string]T {
	all := make(map[string]T, len(own))
	maps.Copy(all, earlier)
	maps.Copy(all, own)
	return all
}

// AcceptedQuota is the limits of an ApiKeyQuota when it was last accepted, and the tier it was on. Its keys, its state and
// its expiration are not kept: those of the object hold, accepted or not, so that a key can always be revoked.
type AcceptedQuota struct {
	Limits   v1alpha1.KeyLimits         `json:"limits,omitzero"`
	User     string                     `json:"user,omitempty"`
	TierName string                     `json:"tierName"`
	Tier     v1alpha1.RateLimitTierSpec `json:"tier"`
}

// AcceptedGateway is a QuotaGateway when it was last accepted, and the tiers that it assigns.
type AcceptedGateway struct {
	Spec  v1alpha1.QuotaGatewaySpec             `json:"spec"`
	Tiers map[string]v1alpha1.RateLimitTierSpec `json:"tiers,omitempty"`
}

// An Object names the object that a Verdict is about.
type Object struct {
	Kind string
	Name
}

// String is "Kind namespace/name".
func (o Object) String() string { return o.Kind + " " + o.Name.String() }

// A Verdict is what Compile has to say about one object.
type Verdict struct {
	Object     Object
	Generation int64
	Problems   []Problem // empty: accepted
}

// Accepted reports whether the object counts as written.
func (v Verdict) Accepted() bool { return len(v.Problems) == 0 }

// A Problem is one reason why an object does not count.
type Problem struct {
	Reason  string // a Reason constant of the API package
	Field   string // path by list keys, as in spec.limits.rates[metric=Requests,per=Minute].max
	Message string // one sentence for whoever wrote the object: what is wrong and what to do
}

// Kinds of objects, as in Object.Kind and Origin.Kind.
const (
	KindTier    = "RateLimitTier"
	KindModel   = "ModelLimit"
	KindQuota   = "ApiKeyQuota"
	KindUser    = "UserQuota"
	KindGateway = "QuotaGateway"
)
