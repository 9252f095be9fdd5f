// Package descriptor is the contract between Envoy and the service: which facts travel under which names.
//
// It is the only place that names descriptor keys and metadata keys. Package xds/envoy uses it to tell Envoy what to send,
// and package ratelimit to read what arrives, so the two sides cannot drift apart.
package descriptor

import "time"

// Domain is the rate-limit domain of all calls.
const Domain = "tierkeeper"

// Heartbeat is how often Envoy tells the service that a request is still under way.
const Heartbeat = 10 * time.Second

// Phases of a request. A reserve is asked before the request is forwarded; a settle is told when its stream has ended.
const (
	PhaseReserve = "reserve"
	PhaseSettle  = "settle"
)

// Keys of descriptor entries in both phases.
const KeyPhase = "phase"

// Keys of a reserve. KeyHeader and KeyQuery are followed by the name of a header, in lower case, or query parameter in which
// an API key can stand.
const (
	KeyHeader     = "header."
	KeyQuery      = "query."
	KeyClient     = "remote_address" // Envoy's remote_address action chooses this name itself; it holds no port
	KeyGateway    = "gateway"        // namespace/name
	KeyResource   = "resource"
	KeyProtocol   = "protocol"
	KeyRouteModel = "route_model" // where the body does not tell the model
	KeyModel      = "model"
	KeyMaxOutput  = "max_output"  // tokens; 0 where the request names no maximum
	KeyInputBytes = "input_bytes" // of the request body
	KeyStream     = "stream"      // "true" if the client asked for a stream
	KeyUnmetered  = "unmetered"   // "true" on routes whose requests are counted against no limit
)

// Keys of a settle. The tokens are what the provider reported at the end; those that begin with KeyPartial are what it had
// reported so far when the stream was cut.
const (
	KeyLease        = "lease"
	KeyCode         = "code"          // HTTP status that the client got; 0 if none
	KeyOutputBytes  = "output_bytes"  // of the response body, as far as it was sent
	KeyResponseType = "response_type" // content type of the response
	KeyInputTokens  = "input_tokens"
	KeyOutputTokens = "output_tokens"
	KeyCachedTokens = "cached_tokens" //nolint:gosec // Of the input; it is no credential.
	KeyThoughts     = "thoughts"      // tokens of the output that are reasoning

	KeyPartial           = "partial_"
	KeyPartialInput      = KeyPartial + "input"
	KeyPartialOutput     = KeyPartial + "output"
	KeyPartialCached     = KeyPartial + "cached"      // part of the input
	KeyPartialCacheRead  = KeyPartial + "cache_read"  // cached, and not part of the input there
	KeyPartialCacheWrite = KeyPartial + "cache_write" // not part of the input there
	KeyPartialToolUse    = KeyPartial + "tool_use"    // not part of the input there
	KeyPartialThoughts   = KeyPartial + "thoughts"    // not part of the output there
)

// MetadataRoute is the namespace of route metadata, and of what is read from the response while it passes. Route metadata
// has the keys KeyGateway, KeyResource, KeyProtocol, KeyRouteModel and KeyUnmetered.
const MetadataRoute = "tierkeeper.io"

// MetadataService is the namespace in which the service's answer is kept while the request lives: KeyLease, or
// MetadataDenyStatus if the request was refused.
const MetadataService = "envoy.filters.http.ratelimit"

// MetadataDenyStatus is the HTTP status of a denial, as a decimal string.
const MetadataDenyStatus = "deny_status"

// HeaderPrefix begins the names of request headers that exist between the service and Envoy's filters only. What a client
// sends under such a name is dropped before anything reads it.
const HeaderPrefix = "x-tk-"

// HeaderPool names the pool of endpoints that serves the request. The service adds it, and no backend sees it.
const HeaderPool = HeaderPrefix + "pool"

// DenyStatuses are the statuses that a denial can have. Envoy has a mapper for each.
var DenyStatuses = []int{400, 401, 402, 403, 404, 429, 503}

// GoogleStatuses are the names that errors of Google's APIs have beside their HTTP status.
var GoogleStatuses = map[int]string{
	400: "INVALID_ARGUMENT",
	401: "UNAUTHENTICATED",
	402: "RESOURCE_EXHAUSTED",
	403: "PERMISSION_DENIED",
	404: "NOT_FOUND",
	408: "DEADLINE_EXCEEDED",
	413: "INVALID_ARGUMENT",
	429: "RESOURCE_EXHAUSTED",
	503: "UNAVAILABLE",
	504: "DEADLINE_EXCEEDED",
}

// Protocol tells the service how to read numbers and what shape an error has.
type Protocol string

// The protocols, as they stand in route metadata.
const (
	ProtocolOpaque               Protocol = "opaque"
	ProtocolJSON                 Protocol = "json"
	ProtocolOpenAIChat           Protocol = "openai-chat"
	ProtocolOpenAICompletions    Protocol = "openai-completions"
	ProtocolOpenAIResponses      Protocol = "openai-responses"
	ProtocolOpenAIEmbeddings     Protocol = "openai-embeddings"
	ProtocolOpenAIImages         Protocol = "openai-images"
	ProtocolOpenAITranscriptions Protocol = "openai-transcriptions"
	ProtocolAnthropic            Protocol = "anthropic"
	ProtocolGemini               Protocol = "gemini"
)

// Protocols are all of them.
var Protocols = []Protocol{
	ProtocolOpaque, ProtocolJSON, ProtocolOpenAIChat, ProtocolOpenAICompletions, ProtocolOpenAIResponses, ProtocolOpenAIEmbeddings,
	ProtocolOpenAIImages, ProtocolOpenAITranscriptions, ProtocolAnthropic, ProtocolGemini,
}
