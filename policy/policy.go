// Package policy decides, from every object that the user wrote, which limits hold for which request.
//
// It reads nothing and writes nothing: Compile is a function of its Input and Resolve a function of the Table that
// Compile made. Precedence between objects, the identity of counters, tenancy and the verdict on each object are decided
// here and nowhere else.
package policy

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

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

// An Input is one consistent view of the objects a compilation reads, which does not change them. The order of its lists means
// nothing.
type Input struct {
	Namespaces []Namespace
	Tiers      []*v1alpha1.RateLimitTier
	Models     []*v1alpha1.ModelLimit
	Quotas     []*v1alpha1.ApiKeyQuota
	Users      []*v1alpha1.UserQuota
	Gateways   []*v1alpha1.QuotaGateway
	Secrets    map[Name]Secret

	// SecretNamespaces are those whose Secrets were read; none: all.
	SecretNamespaces []string

	// LastAccepted is what an earlier compilation found to be in order, by which an object that is not accepted now goes on. What
	// a Compiler found itself it knows.
	LastAccepted Accepted
}

// ReadsSecrets reports whether the Secrets of a namespace were read.
func (in *Input) ReadsSecrets(namespace string) bool {
	return len(in.SecretNamespaces) == 0 || slices.Contains(in.SecretNamespaces, namespace)
}

// A Namespace is a namespace and its labels. One that is not listed has none but kubernetes.io/metadata.name.
type Namespace struct {
	Name   string
	Labels map[string]string
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
	UID        types.UID // tells the object from another one of its name; empty where objects have none
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
