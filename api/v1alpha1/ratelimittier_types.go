package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Priority tells a request's standing among others. Responses carry it as X-Request-Priority, 1 (Low) to 4 (Critical).
// +kubebuilder:validation:Enum=Low;Normal;High;Critical
type Priority string

const (
	// PriorityLow is 1.
	PriorityLow Priority = "Low"
	// PriorityNormal is 2.
	PriorityNormal Priority = "Normal"
	// PriorityHigh is 3.
	PriorityHigh Priority = "High"
	// PriorityCritical is 4.
	PriorityCritical Priority = "Critical"
)

// KeyOverrides says how far an ApiKeyQuota may change the limits of its tier.
// +kubebuilder:validation:Enum=None;Lower;Any
type KeyOverrides string

const (
	// KeyOverridesNone: a quota may not set limits of its own.
	KeyOverridesNone KeyOverrides = "None"
	// KeyOverridesLower: a quota may tighten what the tier says and limit what the tier does not mention, nothing more.
	KeyOverridesLower KeyOverrides = "Lower"
	// KeyOverridesAny: a quota may raise and lift as it likes.
	KeyOverridesAny KeyOverrides = "Any"
)

// TierNamespacesFrom selects the namespaces that may use a tier.
// +kubebuilder:validation:Enum=All;Selector;None
type TierNamespacesFrom string

const (
	// TierNamespacesAll: every namespace.
	TierNamespacesAll TierNamespacesFrom = "All"
	// TierNamespacesSelector: namespaces whose labels match the selector.
	TierNamespacesSelector TierNamespacesFrom = "Selector"
	// TierNamespacesNone: no namespace; the tier is out of use.
	TierNamespacesNone TierNamespacesFrom = "None"
)

// TierNamespaces selects the namespaces whose ApiKeyQuotas and QuotaGateways may name a tier.
//
// +kubebuilder:validation:XValidation:rule="self.from == 'Selector' ? has(self.selector) : !has(self.selector)",message="selector goes with from: Selector, and only with it"
type TierNamespaces struct {
	// from says how namespaces are chosen.
	//
	// +required
	From TierNamespacesFrom `json:"from,omitempty"`

	// selector matches labels of namespaces.
	//
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// QueueMode says what becomes of a request for a model that is at its capacity.
// +kubebuilder:validation:Enum=Wait;Refuse
type QueueMode string

const (
	// QueueWait: it waits for its turn.
	QueueWait QueueMode = "Wait"
	// QueueRefuse: it is answered 503.
	QueueRefuse QueueMode = "Refuse"
)

// TierQueue says whether requests may wait for a model that is at its capacity, and how long.
//
// +kubebuilder:validation:XValidation:rule="self.mode == 'Wait' ? has(self.maxWaitSeconds) : !has(self.maxWaitSeconds)",message="maxWaitSeconds goes with mode: Wait, and only with it"
type TierQueue struct {
	// mode is what happens.
	//
	// +required
	Mode QueueMode `json:"mode,omitempty"`

	// maxWaitSeconds is the longest wait. The ModelLimit's capacity.queue.maxWaitSeconds bounds it as well.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=300
	MaxWaitSeconds int32 `json:"maxWaitSeconds,omitempty"`
}

// RateLimitTierSpec says what a plan allows each key on it.
type RateLimitTierSpec struct {
	KeyLimits `json:",inline"`

	// priority decides who goes first where requests wait for a model, and is sent to clients as X-Request-Priority: Low is 1,
	// Normal 2, High 3, Critical 4. Absent means Normal.
	//
	// +optional
	Priority Priority `json:"priority,omitempty"`

	// backendPool names the endpoints of backends that serve requests on this tier, and no others. A backend that has none in
	// the pool serves them by its endpoints without one. Absent means those.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	BackendPool string `json:"backendPool,omitempty"`

	// allowedNamespaces says in which namespaces ApiKeyQuotas, and QuotaGateways that assign a tier, may name this one.
	// Absent means all.
	//
	// +optional
	AllowedNamespaces *TierNamespaces `json:"allowedNamespaces,omitempty"`

	// keyOverrides says how far an ApiKeyQuota may change these limits. Absent means Lower: each pair of metric and per that
	// the quota sets is at most the tier's, and nothing is lifted.
	//
	// +optional
	KeyOverrides KeyOverrides `json:"keyOverrides,omitempty"`

	// queue says whether requests may wait for a model that is at its capacity. Absent means that they are refused with 503.
	//
	// +optional
	Queue *TierQueue `json:"queue,omitempty"`

	// alerts says at what use of a limit people are told. Those of an ApiKeyQuota take their place. Absent means 80 and 100 percent.
	//
	// +optional
	Alerts *Alerts `json:"alerts,omitempty"`

	// enforcement Shadow records what these limits would refuse, and refuses nothing: a limit that does not fit is not
	// charged. Limits of quotas, users and models hold. Absent means Enforce.
	//
	// +optional
	Enforcement Enforcement `json:"enforcement,omitempty"`
}

// RateLimitTierStatus is what is the case.
//
// +kubebuilder:validation:MinProperties=1
type RateLimitTierStatus struct {
	ObjectStatus `json:",inline"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=rlt,categories=ratelimits
// +kubebuilder:printcolumn:name="Priority",type=string,JSONPath=`.spec.priority`
// +kubebuilder:printcolumn:name="Overrides",type=string,JSONPath=`.spec.keyOverrides`,priority=1
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// RateLimitTier is a plan: limits for each key on it.
type RateLimitTier struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the usual.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`
	// spec is what is wanted.
	// +required
	Spec RateLimitTierSpec `json:"spec,omitzero"`
	// status is what is the case.
	// +optional
	Status RateLimitTierStatus `json:"status,omitzero"`
}

// +kubebuilder:object:root=true

// RateLimitTierList is a list of RateLimitTiers.
type RateLimitTierList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the usual.
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`
	// items are the tiers.
	Items []RateLimitTier `json:"items"`
}
