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
)

// Keys of a settle. The tokens are what the provider reported at the end; those that begin with KeyPartial are what it had
// reported so far when the stream was cut.
const (
	KeyLease             = "lease"
	KeyCode              = "code"         // HTTP status that the client got; 0 if none
	KeyOutputBytes       = "output_bytes" // of the response body, as far as it was sent
	KeyInputTokens       = "input_tokens"
	KeyOutputTokens      = "output_tokens"
	KeyPartial           = "partial_"
	KeyPartialInput      = KeyPartial + "input"
	KeyPartialOutput     = KeyPartial + "output"
	KeyPartialCacheRead  = KeyPartial + "cache_read"  // not part of the input there
	KeyPartialCacheWrite = KeyPartial + "cache_write" // not part of the input there
)

// MetadataRoute is the namespace of route metadata, and of what is read from the body while it passes. Route metadata has
// the keys KeyGateway, KeyResource, KeyProtocol and KeyRouteModel.
const MetadataRoute = "tierkeeper.io"

// MetadataService is the namespace in which the service's answer is kept while the request lives: KeyLease, or
// MetadataDenyStatus if the request was refused.
const MetadataService = "envoy.filters.http.ratelimit"

// MetadataDenyStatus is the HTTP status of a denial, as a decimal string.
const MetadataDenyStatus = "deny_status"

// DenyStatuses are the statuses that a denial can have. Envoy has a mapper for each.
var DenyStatuses = []int{400, 401, 402, 403, 429, 503}

// Protocol tells the service how to read numbers and what shape an error has.
type Protocol string

// The protocols, as they stand in route metadata.
const (
	ProtocolOpenAIChat       Protocol = "openai-chat"
	ProtocolOpenAIEmbeddings Protocol = "openai-embeddings"
	ProtocolAnthropic        Protocol = "anthropic"
	ProtocolOpaque           Protocol = "opaque"
)
