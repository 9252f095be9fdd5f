package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// TokenAssumptions say how tokens of a model count, and what holds where a request does not say how many it takes.
//
// +kubebuilder:validation:MinProperties=1
type TokenAssumptions struct {
	// defaultOutputTokens is reserved for a request that names no maximum of its own. Absent means 1024, and nothing for images.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=9007199254740991
	DefaultOutputTokens int64 `json:"defaultOutputTokens,omitempty"`

	// cachedInputPercent is how much an input token counts that the provider read from its cache, against limits of Tokens and
	// InputTokens, in percent of one that it did not. Fractions are rounded up, for each request. Absent means 100.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	CachedInputPercent *int32 `json:"cachedInputPercent,omitempty"`
}

// ReservedShare is the part of a capacity that a tier gets first.
type ReservedShare struct {
	// tierName names the RateLimitTier.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	TierName string `json:"tierName,omitempty"`

	// concurrentRequests is the size of the share. While the tier has fewer requests under way, those of its requests that wait
	// go before all others, whatever their priority. What the tier does not use is lent to others.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	ConcurrentRequests int32 `json:"concurrentRequests,omitempty"`
}

// CapacityQueue says how many requests may wait for a capacity, and how long.
type CapacityQueue struct {
	// maxLength is the most requests that wait at once. More are answered 503.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	MaxLength int32 `json:"maxLength,omitempty"`

	// maxWaitSeconds is the longest wait, after which a request is answered 503. The tier's own bounds it as well.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=300
	MaxWaitSeconds int32 `json:"maxWaitSeconds,omitempty"`

	// ageSeconds is how long the first waiting request of a key waits until it rises by one priority, and so on up to Critical,
	// so that nobody waits for ever. Absent means 10.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=300
	AgeSeconds int32 `json:"ageSeconds,omitempty"`

	// maxBodyBytes is the most that the bodies of all waiting requests may be together: Envoy holds them in memory. A request
	// whose body is one too many is answered 503; one whose body Envoy does not read counts as 2 MiB. Absent means 268435456,
	// which is 256 MiB.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1048576
	// +kubebuilder:validation:Maximum=1099511627776
	MaxBodyBytes int64 `json:"maxBodyBytes,omitempty"`
}

// Capacity is how many requests a group of models can serve at once, and what becomes of those beyond.
//
// +kubebuilder:validation:XValidation:rule="!has(self.reserved) || self.reserved.map(r, r.concurrentRequests).sum() <= self.concurrentRequests",message="the reserved shares are larger than concurrentRequests together"
type Capacity struct {
	// concurrentRequests is the most requests of all callers that are under way at once.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	ConcurrentRequests int32 `json:"concurrentRequests,omitempty"`

	// queue lets requests beyond wait for their turn, if their tier says so as well (spec.queue.mode: Wait). Absent means that
	// they are answered 503.
	//
	// +optional
	Queue *CapacityQueue `json:"queue,omitempty"`

	// reserved lists the shares that tiers get first. They hold for requests that wait: reserved slots that are idle are lent
	// out, and come back with the next request that ends.
	//
	// +optional
	// +listType=map
	// +listMapKey=tierName
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Reserved []ReservedShare `json:"reserved,omitempty"`
}

// ModelLimitSpec says what a model, or a group of models, can bear.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.capacity) && has(self.shared) && has(self.shared.concurrency))",message="capacity.concurrentRequests is the concurrency of all callers; shared.concurrency must be absent beside it"
// +kubebuilder:validation:XValidation:rule="!has(self.shared) || ((!has(self.shared.rates) || self.shared.rates.all(r, !has(r.mode) || r.mode == 'Limited')) && (!has(self.shared.concurrency) || !has(self.shared.concurrency.mode) || self.shared.concurrency.mode == 'Limited'))",message="mode Unlimited has nothing to lift in shared"
// +kubebuilder:validation:XValidation:rule="!has(self.perKey) || ((!has(self.perKey.rates) || self.perKey.rates.all(r, !has(r.mode) || r.mode == 'Limited')) && (!has(self.perKey.concurrency) || !has(self.perKey.concurrency.mode) || self.perKey.concurrency.mode == 'Limited'))",message="mode Unlimited has nothing to lift in perKey"
type ModelLimitSpec struct {
	// models lists exact names, and beginnings of names followed by "*", by which requests ask for the group's models. The
	// longest match over all ModelLimits decides to which group a model belongs.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^[^*]+\*?$`
	Models []string `json:"models,omitempty"`

	// parentRef names another ModelLimit in whose shared limits this group counts as well. A parent has no parent itself.
	//
	// +optional
	ParentRef *Ref `json:"parentRef,omitempty"`

	// class is a name by which tiers and quotas set limits for models of one size or price.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Class string `json:"class,omitempty"`

	// resource is what the models serve, such as chat. At run time the route's resource counts; this one answers questions
	// that name no route, such as "tierkeeper effective --model".
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Resource string `json:"resource,omitempty"`

	// shared limits hold for all callers together, with one counter for the whole group.
	//
	// +optional
	Shared *Limits `json:"shared,omitempty"`

	// perKey limits hold for each key, with one counter for the whole group, where neither the key's quota nor its tier
	// limits the same pair of metric and per for the model.
	//
	// +optional
	PerKey *Limits `json:"perKey,omitempty"`

	// capacity is how many requests of all callers the group can serve at once, and who may wait. It holds for the groups whose
	// parentRef names this one as well. Those can have no queue and no reserved shares of their own beside it: what is beyond
	// a capacity of theirs is answered 503. Absent means that only limits bound what is under way.
	//
	// +optional
	Capacity *Capacity `json:"capacity,omitempty"`

	// tokens says how the group's tokens count, and what holds for requests that do not say how many they take.
	//
	// +optional
	Tokens *TokenAssumptions `json:"tokens,omitempty"`

	// enforcement Shadow records what these limits and the capacity would refuse, and refuses nothing: a limit that does not fit is not
	// charged. Limits of tiers, quotas and users hold. Absent means Enforce.
	//
	// +optional
	Enforcement Enforcement `json:"enforcement,omitempty"`
}

// ModelLimitStatus is what is the case.
//
// +kubebuilder:validation:MinProperties=1
type ModelLimitStatus struct {
	ObjectStatus `json:",inline"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=mlim,categories=ratelimits
// +kubebuilder:printcolumn:name="Models",type=string,JSONPath=`.spec.models`
// +kubebuilder:printcolumn:name="Class",type=string,JSONPath=`.spec.class`
// +kubebuilder:printcolumn:name="Resource",type=string,JSONPath=`.spec.resource`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// ModelLimit limits what all callers, and each key by default, may use of a group of models.
type ModelLimit struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the usual.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`
	// spec is what is wanted.
	// +required
	Spec ModelLimitSpec `json:"spec,omitzero"`
	// status is what is the case.
	// +optional
	Status ModelLimitStatus `json:"status,omitzero"`
}

// +kubebuilder:object:root=true

// ModelLimitList is a list of ModelLimits.
type ModelLimitList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the usual.
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`
	// items are the model limits.
	Items []ModelLimit `json:"items"`
}
