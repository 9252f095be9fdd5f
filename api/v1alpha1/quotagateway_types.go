package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ListenerProtocol is what a listener speaks.
// +kubebuilder:validation:Enum=HTTP;HTTPS
type ListenerProtocol string

const (
	// ListenerProtocolHTTP is HTTP/1.1 and HTTP/2 without TLS.
	ListenerProtocolHTTP ListenerProtocol = "HTTP"
	// ListenerProtocolHTTPS is HTTP/1.1 and HTTP/2 over TLS 1.2 or newer.
	ListenerProtocolHTTPS ListenerProtocol = "HTTPS"
)

// ListenerTLS says with what a listener identifies itself.
type ListenerTLS struct {
	// certificateRefs lists Secrets of type kubernetes.io/tls in the gateway's namespace, with the label
	// tierkeeper.io/secret: "true". Of several, each client gets the one for the name that it asks for. A Secret that
	// changes is in force for new connections at once; those that are open go on.
	//
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	CertificateRefs []Ref `json:"certificateRefs,omitempty"`
}

// Listener is a port, or a host name at a port, at which the fleet's Envoys accept requests.
//
// +kubebuilder:validation:XValidation:rule="self.protocol == 'HTTPS' ? has(self.tls) : !has(self.tls)",message="tls goes with protocol HTTPS, and only with it"
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

	// protocol is what the listener speaks. Listeners that share a port speak the same.
	//
	// +required
	Protocol ListenerProtocol `json:"protocol,omitempty"`

	// hostname is the name that requests must ask for: exactly, or with "*." at the beginning any name below it. Requests for
	// other names are answered 404, or get no connection with HTTPS. Absent means any name.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	Hostname string `json:"hostname,omitempty"`

	// tls says with what the listener identifies itself.
	//
	// +optional
	TLS *ListenerTLS `json:"tls,omitempty"`
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

// Trust says which certificate authorities a backend's certificate may come from.
// +kubebuilder:validation:Enum=System;CABundle
type Trust string

const (
	// TrustSystem: those that the machine of the control plane trusts; the environment variable SSL_CERT_FILE names others.
	TrustSystem Trust = "System"
	// TrustCABundle: those in caBundleRef, and no others.
	TrustCABundle Trust = "CABundle"
)

// BackendTLS says how a backend is reached over TLS 1.2 or newer. Its certificate is always verified.
//
// +kubebuilder:validation:XValidation:rule="self.trust == 'CABundle' ? has(self.caBundleRef) : !has(self.caBundleRef)",message="caBundleRef goes with trust CABundle, and only with it"
type BackendTLS struct {
	// sni is the DNS name that the backend is asked for and that its certificate must be for.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	SNI string `json:"sni,omitempty"`

	// trust says which certificate authorities the backend's certificate may come from.
	//
	// +required
	Trust Trust `json:"trust,omitempty"`

	// caBundleRef names a value of a Secret that holds certificates of authorities, in PEM.
	//
	// +optional
	CABundleRef *SecretKeyRef `json:"caBundleRef,omitempty"`
}

// BackendCredential is the gateway's own key at a provider. Clients' keys never get there.
//
// +kubebuilder:validation:XValidation:rule="!(self.header.lowerAscii() in ['accept-encoding', 'connection', 'content-length', 'content-type', 'host', 'te', 'transfer-encoding', 'upgrade'] || self.header.lowerAscii().startsWith('x-tk-'))",message="header must not be one that HTTP, or the gateway, needs for itself"
type BackendCredential struct {
	// header is the name of the request header that carries the key, in any case, such as Authorization.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9-]+$`
	Header string `json:"header,omitempty"`

	// prefix stands before the key in the header, as "Bearer " does.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^[ -~]+$`
	Prefix string `json:"prefix,omitempty"`

	// secretKeyRef names the value of a Secret that is the key. White space around the value is ignored. A value that changes
	// is in force with the next request.
	//
	// +required
	SecretKeyRef SecretKeyRef `json:"secretKeyRef,omitzero"`
}

// Backend is a provider, or a model server, that requests are forwarded to.
//
// +kubebuilder:validation:XValidation:rule="!has(self.credential) || has(self.tls)",message="a credential is sent over TLS only; set tls"
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

	// tls says how the backend is reached over TLS. Absent means plain HTTP/1.1.
	//
	// +optional
	TLS *BackendTLS `json:"tls,omitempty"`

	// credential is added to every request that is forwarded to the backend.
	//
	// +optional
	Credential *BackendCredential `json:"credential,omitempty"`

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
// +kubebuilder:validation:Enum=OpenAIChatCompletions;OpenAICompletions;OpenAIResponses;OpenAIEmbeddings;OpenAIImages;OpenAITranscriptions;AnthropicMessages;GeminiGenerateContent;JSONBody;OpaqueBody
type RouteProtocol string

const (
	// ProtocolOpenAIChatCompletions is OpenAI's POST /v1/chat/completions, JSON and SSE.
	ProtocolOpenAIChatCompletions RouteProtocol = "OpenAIChatCompletions"
	// ProtocolOpenAICompletions is OpenAI's legacy POST /v1/completions, JSON and SSE.
	ProtocolOpenAICompletions RouteProtocol = "OpenAICompletions"
	// ProtocolOpenAIResponses is OpenAI's POST /v1/responses, JSON and SSE.
	ProtocolOpenAIResponses RouteProtocol = "OpenAIResponses"
	// ProtocolOpenAIEmbeddings is OpenAI's POST /v1/embeddings.
	ProtocolOpenAIEmbeddings RouteProtocol = "OpenAIEmbeddings"
	// ProtocolOpenAIImages is OpenAI's POST /v1/images/generations. An image is no text: without a report it costs no output.
	ProtocolOpenAIImages RouteProtocol = "OpenAIImages"
	// ProtocolOpenAITranscriptions is OpenAI's POST /v1/audio/transcriptions and translations, whose request is a form with a
	// file. It is not looked into: the route may say the model.
	ProtocolOpenAITranscriptions RouteProtocol = "OpenAITranscriptions"
	// ProtocolAnthropicMessages is Anthropic's POST /v1/messages, JSON and SSE.
	ProtocolAnthropicMessages RouteProtocol = "AnthropicMessages"
	// ProtocolGeminiGenerateContent is Gemini's POST PREFIX/MODEL:generateContent and :streamGenerateContent, and nothing else
	// below the prefix.
	ProtocolGeminiGenerateContent RouteProtocol = "GeminiGenerateContent"
	// ProtocolJSONBody is any JSON body with a field "model", such as OpenAI's speech or moderations. Usage is read where it
	// stands as in OpenAI's Responses.
	ProtocolJSONBody RouteProtocol = "JSONBody"
	// ProtocolOpaqueBody is anything else. The request is not looked into, so it reserves no tokens and names no model, and
	// what the provider does not report is not estimated.
	ProtocolOpaqueBody RouteProtocol = "OpaqueBody"
)

// Metering says whether the requests of a route are counted.
// +kubebuilder:validation:Enum=Metered;Unmetered
type Metering string

const (
	// MeteringMetered: every limit holds.
	MeteringMetered Metering = "Metered"
	// MeteringUnmetered: a request needs a key like any other, and is counted against no limit.
	MeteringUnmetered Metering = "Unmetered"
)

// Route sends the requests that it matches to a backend. Among routes that match, an exact path goes before a prefix, a
// longer prefix before a shorter one, and a named method before any; the order in the list means nothing.
//
// +kubebuilder:validation:XValidation:rule="!has(self.model) || self.protocol in ['OpaqueBody', 'OpenAITranscriptions']",message="model is for protocols OpaqueBody and OpenAITranscriptions; the others read it from the request"
// +kubebuilder:validation:XValidation:rule="has(self.resource) || has(self.metering) && self.metering == 'Unmetered'",message="a metered route needs a resource"
// +kubebuilder:validation:XValidation:rule="self.protocol != 'GeminiGenerateContent' || self.matches.all(m, m.path.type == 'PathPrefix' && m.path.value != '/')",message="a route of protocol GeminiGenerateContent matches by PathPrefix, as in /v1beta/models: the model follows"
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
	// X-RateLimit-Resource carries it. Absent only where metering is Unmetered.
	//
	// +optional
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

	// metering says whether requests are counted. Unmetered ones need a key all the same, because the backend's credential is
	// added to them. Absent means Metered.
	//
	// +optional
	Metering Metering `json:"metering,omitempty"`
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

	// unknownModels says what becomes of a request for a model that none of these ModelLimits names. Absent means
	// CountTogether.
	//
	// +optional
	UnknownModels *UnknownModels `json:"unknownModels,omitempty"`

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
