package policy

import (
	"strings"
	"time"
)

// A Gateway is an accepted QuotaGateway: what its Envoys serve, and how the service answers them.
type Gateway struct {
	Name         Name
	Listeners    []Listener
	Backends     []Backend
	Routes       []Route // in the order in which they are to be tried
	Sources      []KeySource
	MissingKey   *Assigned // nil: deny
	UnknownKey   *Assigned // nil: deny
	PerMetric    *PerMetric
	PerResource  *PerResource
	MaxBodyBytes int64

	admits func(namespace string) bool
}

// Admits reports whether keys of the namespace may use the gateway.
func (g *Gateway) Admits(namespace string) bool { return g.admits(namespace) }

// A Listener is a TCP port for HTTP without TLS.
type Listener struct {
	Name string
	Port uint32
}

// A Backend is where requests are forwarded to.
type Backend struct {
	Name           string
	Endpoints      []Endpoint
	ConnectTimeout time.Duration
	IdleTimeout    time.Duration // of a stream on which nothing moves
}

// An Endpoint is one address of a Backend; Address is an IP address or a DNS name.
type Endpoint struct {
	Address string
	Port    uint32
}

// A Route sends the requests that it matches to a backend. One Route has one match; a route that lists several becomes
// several.
type Route struct {
	Name     string
	Path     string
	Prefix   bool   // Path matches itself and what continues it after a "/"
	Method   string // empty: any
	Backend  string
	Protocol Protocol
	Resource string
	Model    string // of routes whose bodies do not tell
}

// Protocol is the form of the bodies on a route.
type Protocol uint8

// The protocols.
const (
	Opaque Protocol = iota
	OpenAIChat
	OpenAIEmbeddings
	Anthropic
)

var protocolNames = []string{"OpaqueBody", "OpenAIChatCompletions", "OpenAIEmbeddings", "AnthropicMessages"}

// String is the name that the API uses.
func (p Protocol) String() string { return protocolNames[p] }

// MarshalText writes String.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// A KeySource is a place where a key can stand: a header, in lower case, with a prefix, or a query parameter.
type KeySource struct {
	Header string
	Prefix string
	Query  string
}

// Reset is the form in which a header tells when a window ends.
type Reset uint8

// The forms: seconds since 1970, seconds left, time left as in 6m0s.
const (
	ResetUnixSeconds Reset = iota
	ResetDeltaSeconds
	ResetDuration
)

// PerMetric configures x-ratelimit-{limit,remaining,reset}-{requests,tokens}.
type PerMetric struct {
	RequestsReset Reset
	TokensReset   Reset
	Window        Per // NoPer: the shortest that has a limit
}

// PerResource configures X-RateLimit-{Limit,Remaining,Reset,Resource,Used} and X-Request-Priority.
type PerResource struct {
	Window Per // NoPer: the shortest that has a limit
}

// KeyIn finds the key in one value of the source: what stands after the prefix, without white space around it. A value
// without the prefix, or with nothing after it, holds no key.
func (s KeySource) KeyIn(value string) (key string, ok bool) {
	value = strings.TrimSpace(value)
	if len(value) < len(s.Prefix) || !strings.EqualFold(value[:len(s.Prefix)], s.Prefix) {
		return "", false
	}
	key = strings.TrimSpace(value[len(s.Prefix):])
	return key, key != ""
}
