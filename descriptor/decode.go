package descriptor

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// An Entry is one fact of a descriptor, by the name under which it travels.
type Entry struct{ Key, Value string }

// A Credential is what stood in one place where an API key can stand: the whole header, or the query parameter. It never
// prints its value.
type Credential struct {
	Header string // name of the header, in lower case; empty for a query parameter
	Query  string // name of the query parameter
	value  string
}

// NewCredential is for tests and for callers other than Decode.
func NewCredential(header, query, value string) Credential {
	return Credential{Header: header, Query: query, value: value}
}

// Reveal returns the value. It must be hashed at once, and be kept nowhere.
func (c Credential) Reveal() string { return c.value }

// Format keeps the value out of every log line and error, whatever the verb.
func (c Credential) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "credential in "+c.Header+c.Query)
}

// A Reserve is what Envoy tells of a request that it is about to forward.
type Reserve struct {
	Credentials []Credential
	Client      string // address without port
	Gateway     string // namespace/name
	Resource    string
	Protocol    Protocol
	Model       string // as the body says, else as the route says
	MaxOutput   int64  // tokens; 0 if the request names none
	InputBytes  int64
	Stream      bool
	Unmetered   bool
}

// A Settle is what Envoy tells of a stream that has ended.
type Settle struct {
	Lease       string
	Code        int64 // HTTP status that the client got; 0 if none
	OutputBytes int64
	// ResponseType is the content type of the response; empty if there was none.
	ResponseType string
	Reported     Usage // what the provider reported at the end
	Thoughts     int64 // how much of its output was reasoning, hidden or not
	Partial      Usage // what it had reported when the stream was cut
	// Absurd: the provider reported numbers that no request can have. They are left out.
	Absurd bool
}

// Usage is tokens as reported by a provider. Providers leave out what they do not count, and Envoy cannot tell that from 0.
// Cached tokens are part of the input, those of hidden reasoning part of the output.
type Usage struct{ Input, Cached, Output int64 }

// Phase says what the entries are: PhaseReserve, PhaseSettle or something unknown.
func Phase(entries []Entry) string {
	for _, e := range entries {
		if e.Key == KeyPhase {
			return e.Value
		}
	}
	return ""
}

// DecodeReserve reads the entries of a reserve into r, whose Credentials are reused. Entries that it does not know are
// skipped, so that a newer Envoy configuration works with an older service.
func DecodeReserve(entries []Entry, r *Reserve) {
	*r = Reserve{Credentials: r.Credentials[:0]}
	var routeModel string
	for _, e := range entries {
		switch e.Key {
		case KeyClient:
			r.Client = e.Value
		case KeyGateway:
			r.Gateway = e.Value
		case KeyResource:
			r.Resource = e.Value
		case KeyProtocol:
			r.Protocol = Protocol(e.Value)
		case KeyRouteModel:
			routeModel = e.Value
		case KeyModel:
			r.Model = e.Value
		case KeyMaxOutput:
			r.MaxOutput = count(e.Value)
		case KeyInputBytes:
			r.InputBytes = count(e.Value)
		case KeyStream:
			r.Stream = e.Value == "true"
		case KeyUnmetered:
			r.Unmetered = e.Value == "true"
		default:
			if name, ok := strings.CutPrefix(e.Key, KeyHeader); ok {
				r.Credentials = append(r.Credentials, Credential{Header: name, value: e.Value})
			} else if name, ok := strings.CutPrefix(e.Key, KeyQuery); ok {
				r.Credentials = append(r.Credentials, Credential{Query: name, value: e.Value})
			}
		}
	}
	if r.Model == "" {
		r.Model = routeModel
	}
}

// DecodeSettle reads the entries of a settle.
func DecodeSettle(entries []Entry) Settle {
	var s Settle
	for _, e := range entries {
		switch e.Key {
		case KeyLease:
			s.Lease = e.Value
		case KeyCode:
			s.Code = count(e.Value)
		case KeyOutputBytes:
			s.OutputBytes = count(e.Value)
		case KeyResponseType:
			s.ResponseType = e.Value
		case KeyInputTokens:
			s.add(&s.Reported.Input, e.Value)
		case KeyOutputTokens:
			s.add(&s.Reported.Output, e.Value)
		case KeyCachedTokens:
			s.add(&s.Reported.Cached, e.Value)
		case KeyThoughts:
			s.add(&s.Thoughts, e.Value)
		case KeyPartialInput, KeyPartialCacheWrite, KeyPartialToolUse:
			s.add(&s.Partial.Input, e.Value)
		case KeyPartialCacheRead:
			s.add(&s.Partial.Input, e.Value)
			s.add(&s.Partial.Cached, e.Value)
		case KeyPartialCached:
			s.add(&s.Partial.Cached, e.Value)
		case KeyPartialOutput, KeyPartialThoughts:
			s.add(&s.Partial.Output, e.Value)
		}
	}
	return s
}

// maxReported is more than any request can take. A provider that reports more reports nonsense, and it is as good as no
// report: charged as it is, one such number would use up what everybody shares until the window ends.
const maxReported = 1 << 30

func (s *Settle) add(to *int64, written string) {
	n := count(written)
	if n > maxReported || strings.HasPrefix(written, "-") {
		s.Absurd = true
		return
	}
	*to += n
}

// maxCount keeps sums of several counts within 64 bits, and is what the API allows as a limit.
const maxCount = 1<<53 - 1

// count reads a number that a client or a provider may have chosen: it is never negative and never above maxCount. What is
// no number is 0, which means unknown everywhere.
func count(s string) int64 {
	if s == "" {
		return 0 // An error about it would cost more than all other numbers of a call.
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return min(max(n, 0), maxCount)
	}
	f, err := strconv.ParseFloat(s, 64) // yields an infinity for what is out of its range
	if err != nil && !errors.Is(err, strconv.ErrRange) || math.IsNaN(f) || f < 0 {
		return 0
	}
	if f >= maxCount {
		return maxCount
	}
	return int64(math.Ceil(f))
}
