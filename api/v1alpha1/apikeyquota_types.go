package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DesiredState says whether a quota's keys are honoured.
// +kubebuilder:validation:Enum=Active;Suspended
type DesiredState string

const (
	// DesiredStateActive: the keys are honoured.
	DesiredStateActive DesiredState = "Active"
	// DesiredStateSuspended: requests with the keys are answered 401.
	DesiredStateSuspended DesiredState = "Suspended"
)

// APIKey is one API key of a quota, by reference or by digest. The key itself never stands in the object.
//
// +kubebuilder:validation:XValidation:rule="has(self.secretKeyRef) != has(self.digest)",message="exactly one of secretKeyRef and digest must be set"
type APIKey struct {
	// name tells the quota's keys apart.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`

	// secretKeyRef names the value of a Secret that is the key. White space around the value is ignored.
	//
	// +optional
	SecretKeyRef *SecretKeyRef `json:"secretKeyRef,omitempty"`

	// digest is "sha256:" and the SHA-256 of the key in lower-case hex, as printed by "tierkeeper keygen".
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=71
	// +kubebuilder:validation:Pattern=`^sha256:[0-9a-f]{64}$`
	Digest string `json:"digest,omitempty"`
}

// ApiKeyQuotaSpec says who holds which API keys, on which plan.
//
//nolint:revive // The spelling is given: the kind is called ApiKeyQuota.
type ApiKeyQuotaSpec struct {
	KeyLimits `json:",inline"`

	// keys lists up to four API keys, so that a key can be rotated without a gap. They share one count.
	//
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	Keys []APIKey `json:"keys,omitempty"`

	// tierRef names the RateLimitTier whose limits hold, but for those this quota sets itself.
	//
	// +required
	TierRef Ref `json:"tierRef,omitzero"`

	// user is who holds the keys. A UserQuota of the same namespace with the same user limits all keys of the user together.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	User string `json:"user,omitempty"`

	// desiredState Suspended answers 401 to every request with these keys. Absent means Active.
	//
	// +optional
	DesiredState DesiredState `json:"desiredState,omitempty"`

	// expirationTime is when the keys stop being honoured, up to the year 2999. Absent means never.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=date-time
	// +kubebuilder:validation:Pattern=`^[12]\d{3}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`
	ExpirationTime *metav1.Time `json:"expirationTime,omitempty"`

	// alerts says at what use of a limit people are told. Absent means as its tier says.
	//
	// +optional
	Alerts *Alerts `json:"alerts,omitempty"`

	// enforcement Shadow records what the limits of this object would refuse, and refuses nothing: a limit that does not fit is not
	// charged. They replace no limit of the tier meanwhile. Absent means Enforce.
	//
	// +optional
	Enforcement Enforcement `json:"enforcement,omitempty"`
}

// ApiKeyQuotaStatus is what is the case.
//
// +kubebuilder:validation:MinProperties=1
//
//nolint:revive // The spelling is given: the kind is called ApiKeyQuota.
type ApiKeyQuotaStatus struct {
	ObjectStatus `json:",inline"`

	// lastAccepted is what the object goes on with while it is not accepted. The operator keeps it, so that every replica and every
	// restart agrees.
	//
	// +optional
	LastAccepted *LastAccepted `json:"lastAccepted,omitempty"`

	// usage is how much of the limits is used. The rate-limit service writes it.
	//
	// +optional
	Usage *Usage `json:"usage,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=akq,categories=ratelimits
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tierRef.name`
// +kubebuilder:printcolumn:name="User",type=string,JSONPath=`.spec.user`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.spec.desiredState`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.spec.expirationTime`,priority=1
// +kubebuilder:printcolumn:name="Used",type=integer,JSONPath=`.status.usage.highest.used`
// +kubebuilder:printcolumn:name="Max",type=integer,JSONPath=`.status.usage.highest.max`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,priority=1
// +kubebuilder:printcolumn:name="Limit",type=string,JSONPath=`.status.usage.highest.id`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// ApiKeyQuota is one holder of API keys and what it may use.
//
//nolint:revive // The spelling is given: the kind is called ApiKeyQuota.
type ApiKeyQuota struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the usual.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`
	// spec is what is wanted.
	// +required
	Spec ApiKeyQuotaSpec `json:"spec,omitzero"`
	// status is what is the case.
	// +optional
	Status ApiKeyQuotaStatus `json:"status,omitzero"`
}

// +kubebuilder:object:root=true

// ApiKeyQuotaList is a list of ApiKeyQuotas.
//
//nolint:revive // The spelling is given: the kind is called ApiKeyQuota.
type ApiKeyQuotaList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the usual.
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`
	// items are the quotas.
	Items []ApiKeyQuota `json:"items"`
}
