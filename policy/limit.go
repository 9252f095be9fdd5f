package policy

import (
	"fmt"
	"strconv"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// A Metric is something that requests use up.
type Metric uint8

// The metrics. ConcurrentRequests is held rather than used up and has no Per.
const (
	Requests Metric = iota + 1
	Tokens
	InputTokens
	OutputTokens
	ConcurrentRequests
)

var metricNames = []string{"", "Requests", "Tokens", "InputTokens", "OutputTokens", "ConcurrentRequests"}

// String is the name that the API and "tierkeeper effective" use.
func (m Metric) String() string { return metricNames[m] }

// MarshalText writes String.
func (m Metric) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Per is the calendar unit, in UTC, of a window.
type Per uint8

// The units, shortest first. NoPer goes with ConcurrentRequests.
const (
	NoPer Per = iota
	Second
	Minute
	Hour
	Day
	Month
)

var perNames = []string{"", "Second", "Minute", "Hour", "Day", "Month"}

// String is the name that the API uses; empty for NoPer.
func (p Per) String() string { return perNames[p] }

// MarshalText writes String.
func (p Per) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// A Pair is what a limit is about. At one scope at most one limit holds for each pair.
type Pair struct {
	Metric Metric
	Per    Per
}

// bit numbers pairs for sets of them.
func (p Pair) bit() uint32 { return 1 << (uint32(p.Metric-1)*6 + uint32(p.Per)) }

// A Scope says what a limit counts: requests of a key, of a user or of everybody, all of them or those of one resource or
// model. Limits of different scopes hold together.
type Scope uint8

// The scopes, in the order in which Resolve lists them.
const (
	ScopeKey Scope = iota + 1
	ScopeKeyResource
	ScopeKeyModel
	ScopeUser
	ScopeUserResource
	ScopeUserModel
	ScopeModelShared
)

var scopeNames = []string{"", "Key", "KeyResource", "KeyModel", "User", "UserResource", "UserModel", "ModelShared"}

// String is the name that "tierkeeper effective" uses.
func (s Scope) String() string { return scopeNames[s] }

// MarshalText writes String.
func (s Scope) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// An Algorithm is the way in which a rate is counted.
type Algorithm uint8

// The algorithms. What has no Per is said to have the first.
const (
	// FixedWindow counts in calendar units, in UTC, and starts at zero with each.
	FixedWindow Algorithm = iota
	// SlidingWindow counts what passed within the last unit, at every moment.
	SlidingWindow
)

var algorithmNames = []string{"FixedWindow", "SlidingWindow"}

// String is the name that the API uses.
func (a Algorithm) String() string { return algorithmNames[a] }

// MarshalText writes String.
func (a Algorithm) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// An Origin is where a limit was written.
type Origin struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Field     string `json:"field"` // path by list keys
}

// Object is what the limit was written in.
func (o Origin) Object() Object { return Object{o.Kind, Name{o.Namespace, o.Name}} }

// A Limit is one ceiling that holds for a request.
type Limit struct {
	Scope     Scope
	Pair      Pair
	Algorithm Algorithm
	Max       int64
	Status    int // the HTTP status of a denial: 429, 402, 403 or 503
	Origin    Origin
	// Shadow: what does not fit is recorded and let through.
	Shadow bool
	// Capacity is what a request waits for that does not fit; nil for all but the capacity of a ModelLimit.
	Capacity *Capacity

	// Counter identifies what the limit counts by scope, subject, model entry or resource, metric, unit and algorithm. It
	// does not change when a number, a tier or a generation does, so that an edit keeps the count.
	Counter string
	// Subject is the part of Counter that names whose requests are counted: the holder, the user or the model group.
	Subject string
	// Entry is the part of Counter that names the resource, the model entry or the model group; empty where all counts.
	Entry string
}

// counter writes the identity of a counter. The quotes keep a subject or an entry, which users choose, from posing as
// another.
func counter(scope Scope, subject, entry string, pair Pair, algorithm Algorithm) string {
	b := make([]byte, 0, 128)
	b = append(append(b, scope.String()...), ' ')
	b = append(strconv.AppendQuote(b, subject), ' ')
	b = append(strconv.AppendQuote(b, entry), ' ')
	b = append(append(b, pair.Metric.String()...), ' ')
	b = append(append(b, pair.Per.String()...), ' ')
	return string(append(b, algorithm.String()...))
}

// Exceeded is the name that the API gives to the limit's Status.
func (l Limit) Exceeded() string { return exceededNames[l.Status] }

// Enforcement is the name that the API gives to the limit's Shadow.
func (l Limit) Enforcement() string {
	if l.Shadow {
		return string(v1alpha1.EnforcementShadow)
	}
	return string(v1alpha1.EnforcementEnforce)
}

// String is for messages, as in "Requests per Minute".
func (p Pair) String() string {
	if p.Per == NoPer {
		return p.Metric.String()
	}
	return fmt.Sprintf("%s per %s", p.Metric, p.Per)
}
