package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// KeySource is a place in a request where an API key can stand.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="has(self.header) != has(self.queryParameter)",message="exactly one of header and queryParameter must be set"
// +kubebuilder:validation:XValidation:rule="!has(self.prefix) || has(self.header)",message="prefix goes with header, and only with it"
// +kubebuilder:validation:XValidation:rule="!has(self.header) || !(self.header.lowerAscii() in ['accept-encoding', 'connection', 'content-length', 'content-type', 'host', 'te', 'transfer-encoding', 'upgrade', 'x-forwarded-proto', 'x-request-id'] || self.header.lowerAscii().startsWith('x-tk-') || self.header.lowerAscii().startsWith('x-envoy-'))",message="header must not be one that HTTP, or the gateway, needs for itself"
type KeySource struct {
	// header is the name of a header, in any case.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9-]+$`
	Header string `json:"header,omitempty"`

	// prefix stands before the key in the header, as "Bearer " does. Letters of any case match. A header without it holds no key.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Prefix string `json:"prefix,omitempty"`

	// queryParameter is the name of a query parameter.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_.-]+$`
	QueryParameter string `json:"queryParameter,omitempty"`
}

// StrangerAction is what becomes of a request that no ApiKeyQuota knows.
// +kubebuilder:validation:Enum=Deny;AssignTier
type StrangerAction string

const (
	// StrangerDeny answers 401.
	StrangerDeny StrangerAction = "Deny"
	// StrangerAssignTier applies a tier, counted for each client address (each /64 of IPv6).
	StrangerAssignTier StrangerAction = "AssignTier"
)

// Stranger says what becomes of a request that no ApiKeyQuota knows.
//
// +kubebuilder:validation:XValidation:rule="self.action == 'AssignTier' ? has(self.tierRef) : !has(self.tierRef)",message="tierRef goes with action AssignTier, and only with it"
type Stranger struct {
	// action is what happens.
	//
	// +required
	Action StrangerAction `json:"action,omitempty"`

	// tierRef names the RateLimitTier that is applied.
	//
	// +optional
	TierRef *Ref `json:"tierRef,omitempty"`
}

// Identity says how a request tells whose it is.
type Identity struct {
	// sources lists where API keys can stand. A request with two different keys is answered 401. All of these places are
	// removed before the request is forwarded.
	//
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Sources []KeySource `json:"sources,omitempty"`

	// missingKey says what becomes of a request without a key. Absent means Deny.
	//
	// +optional
	MissingKey *Stranger `json:"missingKey,omitempty"`

	// unknownKey says what becomes of a request with a key that no ApiKeyQuota holds. Absent means Deny.
	//
	// +optional
	UnknownKey *Stranger `json:"unknownKey,omitempty"`

	// trustedProxyHops is how many proxies of yours stand before the gateway. The address of the client, for which requests
	// without a key are counted, is then read from X-Forwarded-For, so many entries from its end. Absent or 0 means that it
	// is the address that the connection comes from.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=16
	TrustedProxyHops *int32 `json:"trustedProxyHops,omitempty"`
}

// NamespacesFrom selects the namespaces whose keys a gateway accepts.
// +kubebuilder:validation:Enum=All;Same;Selector
type NamespacesFrom string

const (
	// NamespacesAll: every namespace.
	NamespacesAll NamespacesFrom = "All"
	// NamespacesSame: the gateway's own namespace.
	NamespacesSame NamespacesFrom = "Same"
	// NamespacesSelector: namespaces whose labels match the selector.
	NamespacesSelector NamespacesFrom = "Selector"
)

// Namespaces selects namespaces.
//
// +kubebuilder:validation:XValidation:rule="self.from == 'Selector' ? has(self.selector) : !has(self.selector)",message="selector goes with from: Selector, and only with it"
type Namespaces struct {
	// from says how namespaces are chosen.
	//
	// +required
	From NamespacesFrom `json:"from,omitempty"`

	// selector matches labels of namespaces.
	//
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// AllowedKeys says whose keys may use a gateway, and so its backends.
type AllowedKeys struct {
	// namespaces are those of the ApiKeyQuotas.
	//
	// +required
	Namespaces Namespaces `json:"namespaces,omitzero"`
}
