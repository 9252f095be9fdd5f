package demo

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// An Outcome is how the answer to a request ended.
type Outcome string

// The outcomes.
const (
	Open       Outcome = "open"        // it has not ended
	Done       Outcome = "done"        // it was sent whole; it may be an error's
	ClientGone Outcome = "client_gone" // the client, or the gateway before it, left first
	Aborted    Outcome = "aborted"     // a switch broke the connection
)

// A Request is what a Provider remembers of a request and of its own answer.
type Request struct {
	ID      string    `json:"id"` // its x-request-id, or one of the provider's making
	Method  string    `json:"method"`
	Path    string    `json:"path"`  // without the query; at most 256 bytes
	Model   string    `json:"model"` // at most 256 bytes
	Stream  bool      `json:"stream"`
	Started time.Time `json:"started"`
	Status  int       `json:"status"` // 0 until the headers are sent
	Outcome Outcome   `json:"outcome"`

	// InputTokens is 0 where the body was not understood: errors, and paths with a fixed reply. It contains CachedTokens.
	InputTokens  int `json:"input_tokens"`
	CachedTokens int `json:"cached_tokens"`
	// OutputTokens counts what was handed to the network so far, whether or not usage is reported. What was thought and
	// not said is added when the answer has ended whole.
	OutputTokens int `json:"output_tokens"`
	// BytesRead and BytesWritten count bodies, without headers and the framing of chunks.
	BytesRead    int64 `json:"bytes_read"`
	BytesWritten int64 `json:"bytes_written"`

	// Header and RawQuery are what came in, keys included: for comparison in tests, never for printing.
	Header   http.Header `json:"-"`
	RawQuery string      `json:"-"`
}

// history is a ring of the latest requests.
type history struct {
	mu       sync.Mutex
	ring     []*Request // nil where nothing was yet; the oldest is at sequence % len
	sequence uint64
}

func newHistory(n int) *history { return &history{ring: make([]*Request, max(1, n))} }

// begin adds a request and numbers it from 1.
func (h *history) begin(r *http.Request, now time.Time) (*Request, uint64) {
	q := &Request{
		ID: r.Header.Get("X-Request-Id"), Method: r.Method, Path: clip(r.URL.Path), Started: now, Outcome: Open,
		Header: r.Header.Clone(), RawQuery: r.URL.RawQuery,
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring[h.sequence%uint64(len(h.ring))] = q
	h.sequence++
	if q.ID == "" {
		q.ID = fmt.Sprintf("req_%024d", h.sequence)
	}
	return q, h.sequence
}

func (h *history) change(q *Request, change func(*Request)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(q)
}

func (h *history) list() []Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]Request, 0, len(h.ring))
	for i := range uint64(len(h.ring)) {
		if q := h.ring[(h.sequence+i)%uint64(len(h.ring))]; q != nil {
			c := *q
			c.Header = q.Header.Clone()
			all = append(all, c)
		}
	}
	return all
}

// clip keeps a name that a client sent from filling the memory. It copies, so as not to hold what it leaves out.
func clip(s string) string { return strings.Clone(s[:min(len(s), 256)]) }

func (h *history) serve(w http.ResponseWriter) {
	type public struct {
		Request
		Headers map[string][]string `json:"headers"`
		Query   map[string][]string `json:"query"`
	}
	all := []public{}
	for _, q := range h.list() {
		query, _ := url.ParseQuery(q.RawQuery) // of a broken one, what could be read
		all = append(all, public{q, digests(q.Header, shown), digests(query, nil)})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"requests": all}) // a client that left has nobody to be told
}

// shown are the headers, beside the switches, whose values anybody may read. A key can come in any other.
var shown = map[string]bool{
	"accept": true, "accept-encoding": true, "anthropic-version": true, "content-length": true, "content-type": true,
	"user-agent": true, "x-forwarded-for": true, "x-forwarded-proto": true, "x-request-id": true,
}

// digests puts a digest and a length in place of every value that is not to be shown.
func digests(values map[string][]string, shown map[string]bool) map[string][]string {
	out := make(map[string][]string, len(values))
	for name, list := range values {
		name = strings.ToLower(name)
		_, isSwitch := knobs[name]
		for _, v := range list {
			if !isSwitch && !shown[name] {
				v = digest(v)
			}
			out[name] = append(out[name], v)
		}
	}
	return out
}

func digest(v string) string {
	return fmt.Sprintf("sha256:%x (%d bytes)", sha256.Sum256([]byte(v)), len(v))
}

// tellCredentials adds to an answer's headers what came as a key, each as name and digest.
func tellCredentials(to, from http.Header) {
	for _, name := range []string{"authorization", "x-api-key", "x-goog-api-key"} {
		for _, v := range from.Values(name) {
			to.Add("x-demo-credential", name+" "+digest(v))
		}
	}
}
