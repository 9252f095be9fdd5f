package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// ObjectStatus is what the status of every kind has. The operator writes it.
//
// +kubebuilder:validation:MinProperties=1
type ObjectStatus struct {
	// conditions are Accepted, Programmed and Ready, and for ApiKeyQuota and UserQuota ApproachingLimit and Exhausted, which the
	// rate-limit service writes.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the metadata.generation that the operator judged last.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// LastAccepted is what an object goes on with that is not accepted, and what it would go on with if it broke. It is written as a
// whole: whoever can write metadata.managedFields could otherwise keep parts of what stood there before.
//
// +mapType=atomic
type LastAccepted struct {
	// generation is the metadata.generation that was accepted.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	Generation int64 `json:"generation,omitempty"`

	// spec is the part of the spec that goes on. Keys, state and expiration are always those of the spec as it is now.
	//
	// +required
	// +kubebuilder:pruning:PreserveUnknownFields
	Spec *runtime.RawExtension `json:"spec,omitempty"`

	// tiers are the specs of the RateLimitTiers that it was on, by name, where they may be gone or changed since.
	//
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	Tiers *runtime.RawExtension `json:"tiers,omitempty"`
}

// LimitUsage is how much of one limit is used.
type LimitUsage struct {
	// id tells the limits apart: scope, entry, metric and per, joined by slashes, as in KeyModel/model:gpt-4/Requests/Minute.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	ID string `json:"id,omitempty"`

	// scope is what the limit counts: requests of the key or of the user, all of them or those of one resource or model.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Scope string `json:"scope,omitempty"`

	// entry is the resource, the model or the group of models that is counted. Absent means all requests.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=320
	Entry string `json:"entry,omitempty"`

	// metric is what is counted.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Metric string `json:"metric,omitempty"`

	// per is the window. Absent means requests under way.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Per string `json:"per,omitempty"`

	// used is what was counted, reservations of requests under way included. It may exceed max.
	//
	// +required
	// +kubebuilder:validation:Minimum=0
	Used *int64 `json:"used,omitempty"`

	// max is the limit.
	//
	// +required
	// +kubebuilder:validation:Minimum=0
	Max *int64 `json:"max,omitempty"`

	// remaining is what is left of max.
	//
	// +required
	// +kubebuilder:validation:Minimum=0
	Remaining *int64 `json:"remaining,omitempty"`

	// resetTime is when the window ends. Absent for requests under way.
	//
	// +optional
	ResetTime *metav1.Time `json:"resetTime,omitempty"`
}

// Usage is how much of each limit was used when the rate-limit service looked last. It is written now and then, rounded down to
// what tells something; "kubectl tierkeeper usage" asks the service itself.
type Usage struct {
	// observationTime is when the service looked.
	//
	// +required
	ObservationTime *metav1.Time `json:"observationTime,omitempty"`

	// highest is the limit of which the largest part is used.
	//
	// +optional
	Highest *LimitUsage `json:"highest,omitempty"`

	// limits lists the limits, those of which the largest part is used if there are more than 64.
	//
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Limits []LimitUsage `json:"limits,omitempty"`
}

// Alerts says at what use of a limit people are told.
type Alerts struct {
	// thresholdPercents are parts of a limit's max. When the use of any limit reaches one, the condition ApproachingLimit, an Event
	// and a metric tell so, once for each threshold and window.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=100
	ThresholdPercents []int32 `json:"thresholdPercents,omitempty"`
}

// Envoys counts the Envoys of a gateway, those of all replicas of the operator together.
type Envoys struct {
	// connected is how many are connected.
	//
	// +required
	// +kubebuilder:validation:Minimum=0
	Connected *int32 `json:"connected,omitempty"`

	// acknowledged is how many of them have everything in force that was published last.
	//
	// +required
	// +kubebuilder:validation:Minimum=0
	Acknowledged *int32 `json:"acknowledged,omitempty"`
}
