package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// UnknownModelsAction is what becomes of a request for a model that no ModelLimit names.
// +kubebuilder:validation:Enum=Deny;CountTogether
type UnknownModelsAction string

const (
	// UnknownModelsDeny answers 404.
	UnknownModelsDeny UnknownModelsAction = "Deny"
	// UnknownModelsCountTogether counts all such models of one key as one model.
	UnknownModelsCountTogether UnknownModelsAction = "CountTogether"
)

// UnknownModels says what becomes of a request for a model that no ModelLimit names.
type UnknownModels struct {
	// action is what happens.
	//
	// +required
	Action UnknownModelsAction `json:"action,omitempty"`
}

// Requests bounds what a request may be.
type Requests struct {
	// maxBodyBytes is the largest request body; a larger one is answered 413. Absent means 32 MiB.
	//
	// +required
	// +kubebuilder:validation:Minimum=1024
	// +kubebuilder:validation:Maximum=1073741824
	MaxBodyBytes int64 `json:"maxBodyBytes,omitempty"`
}

// ServiceUnavailableAction is what becomes of a request while the rate-limit service does not answer.
// +kubebuilder:validation:Enum=Allow;Deny
type ServiceUnavailableAction string

const (
	// ServiceUnavailableAllow forwards it, whoever sends it: no key is looked at and no limit holds.
	ServiceUnavailableAllow ServiceUnavailableAction = "Allow"
	// ServiceUnavailableDeny answers 503.
	ServiceUnavailableDeny ServiceUnavailableAction = "Deny"
)

// StoreUnavailableAction is what becomes of a request while the store of the counters does not answer.
// +kubebuilder:validation:Enum=LocalShare;Allow;Deny
type StoreUnavailableAction string

const (
	// StoreUnavailableLocalShare lets each replica of the rate-limit service count for itself: it admits its part of what it saw
	// remain.
	StoreUnavailableLocalShare StoreUnavailableAction = "LocalShare"
	// StoreUnavailableAllow forwards it if its key is valid, whatever its limits are. It is counted when the store is back.
	StoreUnavailableAllow StoreUnavailableAction = "Allow"
	// StoreUnavailableDeny answers 503.
	StoreUnavailableDeny StoreUnavailableAction = "Deny"
)

// Failure says what becomes of requests while a part of Tierkeeper is out of order.
//
// +kubebuilder:validation:MinProperties=1
type Failure struct {
	// whenServiceUnavailable says what becomes of a request while the rate-limit service does not answer. Allow forwards it
	// uncounted, even if its key is unknown, suspended or missing. Absent means Deny.
	//
	// +optional
	WhenServiceUnavailable ServiceUnavailableAction `json:"whenServiceUnavailable,omitempty"`

	// whenStoreUnavailable says what becomes of a request while the store that the replicas of the rate-limit service share, such as
	// Redis, does not answer. With LocalShare each replica admits an equal part of what it saw remain of each limit, so that one
	// outage admits at most max + replicas - 1 within a window. Allow forwards requests with a valid key, Deny answers 503. What
	// passes is counted when the store is back. It says nothing where counters are in the memory of one service. Absent means
	// LocalShare.
	//
	// +optional
	WhenStoreUnavailable StoreUnavailableAction `json:"whenStoreUnavailable,omitempty"`
}

// QuotaGatewaySpec says what a fleet of Envoys serves, to whom, and what its responses tell.
//
// +kubebuilder:validation:XValidation:rule="self.listeners.all(a, self.listeners.exists_one(b, a.port == b.port && has(a.hostname) == has(b.hostname) && (!has(a.hostname) || a.hostname == b.hostname)))",message="port and hostname of each listener must be unique"
// +kubebuilder:validation:XValidation:rule="self.listeners.all(a, self.listeners.all(b, a.port != b.port || a.protocol == b.protocol))",message="listeners that share a port must have the same protocol"
// +kubebuilder:validation:XValidation:rule="self.routes.all(r, self.backends.exists(b, b.name == r.backendName))",message="backendName must name one of spec.backends"
type QuotaGatewaySpec struct {
	// listeners lists the ports.
	//
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Listeners []Listener `json:"listeners,omitempty"`

	// backends lists what requests can be forwarded to.
	//
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Backends []Backend `json:"backends,omitempty"`

	// routes says which requests are served. What no route matches is answered 404.
	//
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=128
	Routes []Route `json:"routes,omitempty"`

	// pathPrefixes lists beginnings of paths below which all routes are served as well, such as /api. Routes name their paths
	// without them, and backends never see them.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:MinLength=2
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$`
	PathPrefixes []string `json:"pathPrefixes,omitempty"`

	// identity says how a request tells whose it is.
	//
	// +required
	Identity Identity `json:"identity,omitzero"`

	// allowedKeys says whose keys may use the gateway. Absent means those of its own namespace.
	//
	// +optional
	AllowedKeys *AllowedKeys `json:"allowedKeys,omitempty"`

	// modelLimitSelector selects, by their labels, the ModelLimits that count at this gateway: those of the account that its
	// backends belong to, say. Absent means all.
	//
	// +optional
	ModelLimitSelector *metav1.LabelSelector `json:"modelLimitSelector,omitempty"`

	// unknownModels says what becomes of a request for a model that no ModelLimit that counts at this gateway names. Absent
	// means CountTogether.
	//
	// +optional
	UnknownModels *UnknownModels `json:"unknownModels,omitempty"`

	// headers says what responses tell about limits. Absent means nothing but Retry-After.
	//
	// +optional
	Headers *ResponseHeaders `json:"headers,omitempty"`

	// abuseProtection blocks whoever gets too many unsuccessful responses. Absent means that nobody is blocked; {} blocks by the
	// defaults.
	//
	// +optional
	AbuseProtection *AbuseProtection `json:"abuseProtection,omitempty"`

	// requests bounds what a request may be.
	//
	// +optional
	Requests *Requests `json:"requests,omitempty"`

	// failure says what becomes of requests while a part of Tierkeeper is out of order.
	//
	// +optional
	Failure *Failure `json:"failure,omitempty"`

	// enforcement Shadow records what any limit, capacity or block of abuseProtection would refuse at this gateway, and refuses
	// nothing for it: a limit that does not fit is not charged, and no request waits. Keys are checked all the same. Absent
	// means Enforce.
	//
	// +optional
	Enforcement Enforcement `json:"enforcement,omitempty"`
}

// QuotaGatewayStatus is what is the case.
//
// +kubebuilder:validation:MinProperties=1
type QuotaGatewayStatus struct {
	ObjectStatus `json:",inline"`

	// lastAccepted is what the object goes on with while it is not accepted. The operator keeps it, so that every replica and every
	// restart agrees.
	//
	// +optional
	LastAccepted *LastAccepted `json:"lastAccepted,omitempty"`

	// envoys counts those that serve the gateway.
	//
	// +optional
	Envoys *Envoys `json:"envoys,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=qgw,categories=ratelimits
// +kubebuilder:printcolumn:name="Ports",type=string,JSONPath=`.spec.listeners[*].port`
// +kubebuilder:printcolumn:name="Dialects",type=string,JSONPath=`.spec.headers.dialects[*].type`
// +kubebuilder:printcolumn:name="Envoys",type=integer,JSONPath=`.status.envoys.connected`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// QuotaGateway is a fleet of Envoys: those whose node.cluster is NAMESPACE/NAME.
type QuotaGateway struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the usual.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`
	// spec is what is wanted.
	// +required
	Spec QuotaGatewaySpec `json:"spec,omitzero"`
	// status is what is the case.
	// +optional
	Status QuotaGatewayStatus `json:"status,omitzero"`
}

// +kubebuilder:object:root=true

// QuotaGatewayList is a list of QuotaGateways.
type QuotaGatewayList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the usual.
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`
	// items are the gateways.
	Items []QuotaGateway `json:"items"`
}
