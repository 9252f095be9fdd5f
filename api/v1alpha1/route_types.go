package v1alpha1

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
	// below the prefix: another route may serve that. What looks like such a call and is written otherwise is answered 404.
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
	// +kubebuilder:validation:Pattern=`^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$`
	Model string `json:"model,omitempty"`

	// metering says whether requests are counted. Unmetered ones need a key all the same, because the backend's credential is
	// added to them. Absent means Metered.
	//
	// +optional
	Metering Metering `json:"metering,omitempty"`
}
