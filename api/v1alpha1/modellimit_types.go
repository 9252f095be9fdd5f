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

// ModelLimitSpec says what a model, or a group of models, can bear.
//
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

	// tokens says how the group's tokens count, and what holds for requests that do not say how many they take.
	//
	// +optional
	Tokens *TokenAssumptions `json:"tokens,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=mlim,categories=ratelimits
// +kubebuilder:printcolumn:name="Models",type=string,JSONPath=`.spec.models`
// +kubebuilder:printcolumn:name="Class",type=string,JSONPath=`.spec.class`
// +kubebuilder:printcolumn:name="Resource",type=string,JSONPath=`.spec.resource`
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
