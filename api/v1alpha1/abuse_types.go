package v1alpha1

// StatusRange is HTTP statuses from min to max, both included.
//
// +kubebuilder:validation:XValidation:rule="self.min <= self.max",message="min must not exceed max"
type StatusRange struct {
	// min is the first status.
	//
	// +required
	// +kubebuilder:validation:Minimum=400
	// +kubebuilder:validation:Maximum=599
	Min int32 `json:"min,omitempty"`

	// max is the last status.
	//
	// +required
	// +kubebuilder:validation:Minimum=400
	// +kubebuilder:validation:Maximum=599
	Max int32 `json:"max,omitempty"`
}

// AbuseProtection says how many unsuccessful responses block whoever caused them: the ApiKeyQuota whose key a request
// brings, else the address of its client (each /64 of IPv6). What is blocked is answered 429.
//
// +kubebuilder:validation:MinProperties=0
type AbuseProtection struct {
	// maxFailures is how many unsuccessful responses within windowSeconds are put up with; one more blocks. Absent means 20.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxFailures int32 `json:"maxFailures,omitempty"`

	// windowSeconds is the time within which they count: any so many seconds. Absent means 30.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	WindowSeconds int32 `json:"windowSeconds,omitempty"`

	// blockSeconds is how long a block holds. What is answered meanwhile does not count, and afterwards counting starts anew.
	// Absent means 30.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	BlockSeconds int32 `json:"blockSeconds,omitempty"`

	// countedStatuses lists the statuses that are unsuccessful. Absent means 400 to 499: with 5xx among them, an outage of a
	// provider blocks its customers.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	CountedStatuses []StatusRange `json:"countedStatuses,omitempty"`

	// exemptCIDRs lists networks whose clients are never blocked and whose failures do not count, as "10.0.0.0/8": those of
	// your own probes, say.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="must be a CIDR such as 10.0.0.0/8"
	ExemptCIDRs []string `json:"exemptCIDRs,omitempty"`
}
