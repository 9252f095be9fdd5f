package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// UserQuotaSpec says what all keys of one user may use together.
type UserQuotaSpec struct {
	KeyLimits `json:",inline"`

	// user is the spec.user of the ApiKeyQuotas, in the same namespace, that are limited together.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="user is immutable"
	User string `json:"user,omitempty"`

	// enforcement Shadow records what these limits would refuse, and refuses nothing: a limit that does not fit is not
	// charged. What else limits the user's keys holds. Absent means Enforce.
	//
	// +optional
	Enforcement Enforcement `json:"enforcement,omitempty"`
}

// UserQuotaStatus is what is the case.
//
// +kubebuilder:validation:MinProperties=1
type UserQuotaStatus struct {
	ObjectStatus `json:",inline"`

	// usage is how much of the limits is used. The rate-limit service writes it.
	//
	// +optional
	Usage *Usage `json:"usage,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=uq,categories=ratelimits
// +kubebuilder:printcolumn:name="User",type=string,JSONPath=`.spec.user`
// +kubebuilder:printcolumn:name="Used",type=integer,JSONPath=`.status.usage.highest.used`
// +kubebuilder:printcolumn:name="Max",type=integer,JSONPath=`.status.usage.highest.max`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,priority=1
// +kubebuilder:printcolumn:name="Limit",type=string,JSONPath=`.status.usage.highest.id`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// UserQuota holds limits that all keys of one user share.
type UserQuota struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the usual.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`
	// spec is what is wanted.
	// +required
	Spec UserQuotaSpec `json:"spec,omitzero"`
	// status is what is the case.
	// +optional
	Status UserQuotaStatus `json:"status,omitzero"`
}

// +kubebuilder:object:root=true

// UserQuotaList is a list of UserQuotas.
type UserQuotaList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the usual.
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`
	// items are the quotas.
	Items []UserQuota `json:"items"`
}
