package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ListenerProtocol is what a listener speaks.
// +kubebuilder:validation:Enum=HTTP
type ListenerProtocol string

// ListenerProtocolHTTP is HTTP/1.1 and HTTP/2 without TLS.
const ListenerProtocolHTTP ListenerProtocol = "HTTP"

// Listener is a port at which the fleet's Envoys accept requests.
type Listener struct {
	// name tells the gateway's listeners apart.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// port is the TCP port.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// protocol is what the listener speaks.
	//
	// +required
	Protocol ListenerProtocol `json:"protocol,omitempty"`
}

// Endpoint is one address of a backend.
type Endpoint struct {
	// address is an IP address or a DNS name.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$|^[0-9a-fA-F:.]+$`
	Address string `json:"address,omitempty"`

	// port is the TCP port.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`
}

// Timeouts of a backend. The time of a whole response is not bounded, because streams may run for long.
//
// +kubebuilder:validation:MinProperties=1
type Timeouts struct {
	// connectSeconds bounds the making of a connection. Absent means 5.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=60
	ConnectSeconds int32 `json:"connectSeconds,omitempty"`

	// idleStreamSeconds bounds the time in which nothing moves in either direction. Absent means 600.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	IdleStreamSeconds int32 `json:"idleStreamSeconds,omitempty"`
}

// Backend is a provider, or a model server, that requests are forwarded to.
type Backend struct {
	// name is what routes call the backend.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// endpoints lists the backend's addresses. Requests are spread over them.
	//
	// +required
	// +listType=map
	// +listMapKey=address
	// +listMapKey=port
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Endpoints []Endpoint `json:"endpoints,omitempty"`

	// timeouts of the backend.
	//
	// +optional
	Timeouts *Timeouts `json:"timeouts,omitempty"`
}

// PathMatchType says how a path is compared.
// +kubebuilder:validation:Enum=Exact;PathPrefix
type PathMatchType string

const (
	// PathMatchExact: the path equals the value.
	PathMatchExact PathMatchType = "Exact"
	// PathMatchPathPrefix: the path equals the value, or continues it after a "/".
	PathMatchPathPrefix PathMatchType = "PathPrefix"
)

// PathMatch matches the path of a request, without its query.
type PathMatch struct {
	// type says how the path is compared.
	//
	// +required
	Type PathMatchType `json:"type,omitempty"`

	// value is what the path is compared with, as it reads without percent-encoding. It begins with "/".
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[^?#%]*$`
	Value string `json:"value,omitempty"`
}

// Method is an HTTP method.
// +kubebuilder:validation:Enum=GET;HEAD;POST;PUT;PATCH;DELETE
type Method string

// Match matches requests.
type Match struct {
	// path is compared with the path of the request.
	//
	// +required
	Path PathMatch `json:"path,omitzero"`

	// method is the method of the request. Absent means any but OPTIONS, which passes every route without being counted.
	//
	// +optional
	Method Method `json:"method,omitempty"`
}

// RouteType is what a route does with a request.
// +kubebuilder:validation:Enum=Backend
type RouteType string

// RouteTypeBackend forwards requests to a backend.
const RouteTypeBackend RouteType = "Backend"

// RouteProtocol is the form of the bodies on a route: where the model, the maximum output and the usage stand, and which
// shape errors have.
// +kubebuilder:validation:Enum=OpenAIChatCompletions;OpenAIEmbeddings;AnthropicMessages;OpaqueBody
type RouteProtocol string

const (
	// ProtocolOpenAIChatCompletions is OpenAI's POST /v1/chat/completions, JSON and SSE.
	ProtocolOpenAIChatCompletions RouteProtocol = "OpenAIChatCompletions"
	// ProtocolOpenAIEmbeddings is OpenAI's POST /v1/embeddings.
	ProtocolOpenAIEmbeddings RouteProtocol = "OpenAIEmbeddings"
	// ProtocolAnthropicMessages is Anthropic's POST /v1/messages, JSON and SSE.
	ProtocolAnthropicMessages RouteProtocol = "AnthropicMessages"
	// ProtocolOpaqueBody is anything else. The request is not looked into, so it reserves no tokens and names no model.
	ProtocolOpaqueBody RouteProtocol = "OpaqueBody"
)

// Route sends the requests that it matches to a backend. Among routes that match, an exact path goes before a prefix, a
// longer prefix before a shorter one, and a named method before any; the order in the list means nothing.
//
// +kubebuilder:validation:XValidation:rule="!has(self.model) || self.protocol == 'OpaqueBody'",message="model is for protocol OpaqueBody; the others read it from the request"
type Route struct {
	// name tells the gateway's routes apart.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// matches lists what the route serves; one that fits is enough.
	//
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Matches []Match `json:"matches,omitempty"`

	// type is what the route does.
	//
	// +required
	Type RouteType `json:"type,omitempty"`

	// backendName names one of spec.backends.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	BackendName string `json:"backendName,omitempty"`

	// protocol is the form of the bodies.
	//
	// +required
	Protocol RouteProtocol `json:"protocol,omitempty"`

	// resource is what the route serves, such as chat, embeddings or images. Limits by resource count it, and the header
	// X-RateLimit-Resource carries it.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Resource string `json:"resource,omitempty"`

	// model is the model that the route's requests count against, where the body does not tell.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Model string `json:"model,omitempty"`
}

// KeySource is a place in a request where an API key can stand.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="has(self.header) != has(self.queryParameter)",message="exactly one of header and queryParameter must be set"
// +kubebuilder:validation:XValidation:rule="!has(self.prefix) || has(self.header)",message="prefix goes with header, and only with it"
// +kubebuilder:validation:XValidation:rule="!has(self.header) || !(self.header.lowerAscii() in ['accept-encoding', 'connection', 'content-length', 'content-type', 'host', 'te', 'transfer-encoding', 'upgrade'] || self.header.lowerAscii().startsWith('x-tk-'))",message="header must not be one that HTTP, or the gateway, needs for itself"
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

// ResetFormat is how the time until a window ends is written.
// +kubebuilder:validation:Enum=UnixSeconds;DeltaSeconds;Duration
type ResetFormat string

const (
	// ResetUnixSeconds is the time of the end in seconds since 1970.
	ResetUnixSeconds ResetFormat = "UnixSeconds"
	// ResetDeltaSeconds is the seconds left, rounded up.
	ResetDeltaSeconds ResetFormat = "DeltaSeconds"
	// ResetDuration is the time left as in 6m0s.
	ResetDuration ResetFormat = "Duration"
)

// HeaderWindow names the window whose limit headers report.
// +kubebuilder:validation:Enum=Nearest;Second;Minute;Hour;Day;Month
type HeaderWindow string

// HeaderWindowNearest is the shortest window that has a limit and, of several limits on it, the one with least remaining.
const HeaderWindowNearest HeaderWindow = "Nearest"

// PerMetricHeaders configures x-ratelimit-{limit,remaining,reset}-{requests,tokens}.
type PerMetricHeaders struct {
	// requestsReset is the form of x-ratelimit-reset-requests.
	//
	// +required
	RequestsReset ResetFormat `json:"requestsReset,omitempty"`

	// tokensReset is the form of x-ratelimit-reset-tokens.
	//
	// +required
	TokensReset ResetFormat `json:"tokensReset,omitempty"`

	// window is the window to report. Absent means Nearest.
	//
	// +optional
	Window HeaderWindow `json:"window,omitempty"`
}

// PerResourceHeaders configures X-RateLimit-{Limit,Remaining,Reset,Resource,Used} and X-Request-Priority.
//
// +kubebuilder:validation:MinProperties=1
type PerResourceHeaders struct {
	// window is the window to report. Absent means Nearest.
	//
	// +optional
	Window HeaderWindow `json:"window,omitempty"`
}

// DialectType names a set of response headers.
// +kubebuilder:validation:Enum=PerMetric;PerResource
type DialectType string

const (
	// DialectPerMetric is x-ratelimit-{limit,remaining,reset}-{requests,tokens}.
	DialectPerMetric DialectType = "PerMetric"
	// DialectPerResource is X-RateLimit-{Limit,Remaining,Reset,Resource,Used} and X-Request-Priority.
	DialectPerResource DialectType = "PerResource"
)

// Dialect is one set of response headers.
//
// +kubebuilder:validation:XValidation:rule="has(self.perMetric) == (self.type == 'PerMetric')",message="perMetric goes with type PerMetric, and only with it"
// +kubebuilder:validation:XValidation:rule="!has(self.perResource) || self.type == 'PerResource'",message="perResource goes with type PerResource, and only with it"
type Dialect struct {
	// type names the set.
	//
	// +required
	Type DialectType `json:"type,omitempty"`

	// perMetric configures type PerMetric.
	//
	// +optional
	PerMetric *PerMetricHeaders `json:"perMetric,omitempty"`

	// perResource configures type PerResource.
	//
	// +optional
	PerResource *PerResourceHeaders `json:"perResource,omitempty"`
}

// ResponseHeaders says what responses tell about limits.
type ResponseHeaders struct {
	// dialects lists the sets of headers that every response carries.
	//
	// +required
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	Dialects []Dialect `json:"dialects,omitempty"`
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

// QuotaGatewaySpec says what a fleet of Envoys serves, to whom, and what its responses tell.
//
// +kubebuilder:validation:XValidation:rule="self.listeners.all(a, self.listeners.exists_one(b, a.port == b.port))",message="the port of each listener must be unique"
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

	// identity says how a request tells whose it is.
	//
	// +required
	Identity Identity `json:"identity,omitzero"`

	// allowedKeys says whose keys may use the gateway. Absent means those of its own namespace.
	//
	// +optional
	AllowedKeys *AllowedKeys `json:"allowedKeys,omitempty"`

	// headers says what responses tell about limits. Absent means nothing but Retry-After.
	//
	// +optional
	Headers *ResponseHeaders `json:"headers,omitempty"`

	// requests bounds what a request may be.
	//
	// +optional
	Requests *Requests `json:"requests,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=qgw,categories=ratelimits
// +kubebuilder:printcolumn:name="Ports",type=string,JSONPath=`.spec.listeners[*].port`
// +kubebuilder:printcolumn:name="Dialects",type=string,JSONPath=`.spec.headers.dialects[*].type`
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
