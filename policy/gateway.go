package policy

import (
	"maps"
	"strings"
	"time"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// A Gateway is a QuotaGateway in force: what its Envoys serve, and how the service answers them. Secrets are named and not
// held: their content never enters the Table.
type Gateway struct {
	Name              Name
	Listeners         []Listener
	Backends          []Backend
	Routes            []Route // in the order in which they are to be tried
	Sources           []KeySource
	MissingKey        *Assigned // nil: deny
	UnknownKey        *Assigned // nil: deny
	TrustedProxyHops  uint32
	DenyUnknownModels bool
	PerMetric         *PerMetric
	PerResource       *PerResource
	IETF              *IETFHeaders
	Anthropic         *AnthropicHeaders
	MaxBodyBytes      int64
	AllowUncounted    bool             `json:",omitempty"` // while the rate-limit service does not answer
	StoreOut          StoreOut         `json:",omitempty"` // what becomes of requests while the store of the counters does not answer
	MaxWait           time.Duration    // the longest that a request may wait for a model's capacity; 0: none waits
	Shadow            bool             // no limit refuses anything here: what would be refused is recorded
	Abuse             *AbuseProtection `json:"Abuse,omitempty"` // nil: nobody is blocked

	admits  admission
	models  *catalog
	secrets []SecretUse
}

// Admits reports whether keys of the namespace may use the gateway.
func (g *Gateway) Admits(namespace string) bool {
	return g.admits.all || g.admits.namespaces[namespace]
}

// admission says whose keys may use a gateway: those of all namespaces, or of some.
type admission struct {
	all        bool
	namespaces map[string]bool
}

func (a admission) same(o admission) bool {
	return a.all == o.all && maps.Equal(a.namespaces, o.namespaces)
}

// assigned lists the tiers that the gateway assigns.
func (g *Gateway) assigned() (all []*Assigned) {
	for _, a := range []*Assigned{g.MissingKey, g.UnknownKey} {
		if a != nil {
			all = append(all, a)
		}
	}
	return all
}

// Serves reports whether requests for the model are served: one that no ModelLimit that counts at the gateway names need
// not be. Those that name no model are.
func (g *Gateway) Serves(model string) bool {
	if !g.DenyUnknownModels || model == "" {
		return true
	}
	_, _, known := g.models.groups.find(model)
	return known
}

// KnowsAny reports whether any ModelLimit counts at the gateway.
func (g *Gateway) KnowsAny() bool { return len(g.models.names) > 0 }

// Secrets lists what the gateway's Envoys need of Secrets.
func (g *Gateway) Secrets() []SecretUse { return g.secrets }

// A Listener is a host name at a TCP port. Listeners may share a port; they all have certificates then, or none has.
type Listener struct {
	Name         string
	Port         uint32
	Hostname     string // empty: any; "*.example.com": any below example.com
	Certificates []Name // Secrets; empty: HTTP without TLS
}

// A Backend is where requests are forwarded to.
type Backend struct {
	Name           string
	Endpoints      []Endpoint
	TLS            *BackendTLS        // nil: plain HTTP/1.1
	Credential     *BackendCredential // nil: none
	ConnectTimeout time.Duration
	IdleTimeout    time.Duration // of a stream on which nothing moves
}

// An Endpoint is one address of a Backend; Address is an IP address or a DNS name.
type Endpoint struct {
	Address string
	Port    uint32
	Pool    string `json:",omitempty"` // empty: it serves tiers without a pool, and those whose pool the backend lacks
}

// BackendTLS says how a backend is reached over TLS.
type BackendTLS struct {
	ServerName string       // that is asked for, and that the certificate must be for
	CABundle   *SecretValue // nil: the authorities that the machine trusts
}

// A BackendCredential is the gateway's own key at a provider, and the header that carries it, in lower case.
type BackendCredential struct {
	Header string
	Prefix string
	Secret SecretValue
}

// A Route sends the requests that it matches to a backend. One Route has one match; a route that lists several becomes
// several.
type Route struct {
	Name       string
	Path       string
	Prefix     bool   // Path matches itself and what continues it after a "/". Gemini: what continues it by a model and a method
	PathPrefix string // the beginning of Path that is not forwarded; may be empty
	Method     string // empty: any
	Backend    string
	Protocol   Protocol
	Resource   string // empty only where Unmetered
	Model      string // of routes whose bodies do not tell
	Unmetered  bool   // requests need a key and are counted against no limit
}

// Protocol is the form of the bodies on a route.
type Protocol uint8

// The protocols.
const (
	Opaque Protocol = iota
	JSONBody
	OpenAIChat
	OpenAICompletions
	OpenAIResponses
	OpenAIEmbeddings
	OpenAIImages
	OpenAITranscriptions
	Anthropic
	Gemini
)

// protocolNames are what the API calls them.
var protocolNames = [...]v1alpha1.RouteProtocol{
	Opaque:               v1alpha1.ProtocolOpaqueBody,
	JSONBody:             v1alpha1.ProtocolJSONBody,
	OpenAIChat:           v1alpha1.ProtocolOpenAIChatCompletions,
	OpenAICompletions:    v1alpha1.ProtocolOpenAICompletions,
	OpenAIResponses:      v1alpha1.ProtocolOpenAIResponses,
	OpenAIEmbeddings:     v1alpha1.ProtocolOpenAIEmbeddings,
	OpenAIImages:         v1alpha1.ProtocolOpenAIImages,
	OpenAITranscriptions: v1alpha1.ProtocolOpenAITranscriptions,
	Anthropic:            v1alpha1.ProtocolAnthropicMessages,
	Gemini:               v1alpha1.ProtocolGeminiGenerateContent,
}

// Protocols lists all of them.
func Protocols() (all []Protocol) {
	for p := range protocolNames {
		all = append(all, Protocol(p))
	}
	return all
}

// protocolOf finds a protocol by the name that the API uses. The schema lets no other name through.
func protocolOf(name v1alpha1.RouteProtocol) Protocol {
	for p, known := range protocolNames {
		if known == name {
			return Protocol(p)
		}
	}
	return Opaque
}

// String is the name that the API uses.
func (p Protocol) String() string { return string(protocolNames[p]) }

// MarshalText writes String.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// A KeySource is a place where a key can stand: a header, in lower case, with a prefix, or a query parameter.
type KeySource struct {
	Header string
	Prefix string
	Query  string
}

// StoreOut is what becomes of requests while the store of the counters does not answer.
type StoreOut uint8

// The ways: each replica admits its part of what remains, all valid keys pass, or 503.
const (
	StoreOutLocalShare StoreOut = iota
	StoreOutAllow
	StoreOutDeny
)

var storeOuts = map[v1alpha1.StoreUnavailableAction]StoreOut{
	"":                                  StoreOutLocalShare,
	v1alpha1.StoreUnavailableLocalShare: StoreOutLocalShare,
	v1alpha1.StoreUnavailableAllow:      StoreOutAllow,
	v1alpha1.StoreUnavailableDeny:       StoreOutDeny,
}

// Reset is the form in which a header tells when a window ends.
type Reset uint8

// The forms: seconds since 1970, seconds left, time left as in 6m0s, and the time of the end as RFC 3339 writes it, which is
// Anthropic's and nobody's choice.
const (
	ResetUnixSeconds Reset = iota
	ResetDeltaSeconds
	ResetDuration
	ResetRFC3339
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

// IETFHeaders configures RateLimit and RateLimit-Policy.
type IETFHeaders struct {
	Window Per // NoPer: the shortest that has a limit
}

// AnthropicHeaders configures anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}.
type AnthropicHeaders struct {
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
