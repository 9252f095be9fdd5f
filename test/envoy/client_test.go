package envoy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	chatPath      = "/v1/chat/completions"
	messagesPath  = "/v1/messages"
	embeddingPath = "/v1/embeddings"
	imagesPath    = "/v1/images/generations"

	answerMost = 30 * time.Second
)

// client keeps no connection, so that one to an Envoy that has died is not used again, and leaves bodies as they are.
var client = &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}

// A request is what to send. The zero method is POST, the zero path that of chats.
type request struct {
	method, path, key, body string
	contentType             string   // empty: application/json
	header                  []string // "name: value"
}

// An answer is a response that has ended.
type answer struct {
	status int
	header http.Header
	body   string
}

// A prompt is what matters here of the body of a chat or of messages, which are almost the same.
type prompt struct {
	model, content string // empty: some
	maxTokens      int    // 0: none, but for messages some
	stream, usage  bool   // usage: ask for it at the end of the stream
}

func (p prompt) chat() string {
	fields := map[string]any{
		"model":    orElse(p.model, "gpt-4o"),
		"messages": []map[string]string{{"role": "user", "content": orElse(p.content, "Hello")}},
	}
	if p.stream {
		fields["stream"] = true
	}
	if p.usage {
		fields["stream_options"] = map[string]bool{"include_usage": true}
	}
	if p.maxTokens > 0 {
		fields["max_tokens"] = p.maxTokens
	}
	return jsonOf(fields)
}

func (p prompt) messages() string {
	if p.maxTokens == 0 {
		p.maxTokens = 64
	}
	p.usage = false
	return p.chat()
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of strings and numbers can be written
	}
	return string(b)
}

func chat(key string, p prompt, header ...string) request {
	return request{path: chatPath, key: key, body: p.chat(), header: header}
}

func messages(key string, p prompt, header ...string) request {
	return request{path: messagesPath, key: key, body: p.messages(), header: header}
}

func (r request) to(ctx context.Context, base string) (*http.Request, error) {
	method, path := orElse(r.method, http.MethodPost), orElse(r.path, chatPath)
	out, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	out.Header.Set("Content-Type", orElse(r.contentType, "application/json"))
	if r.key != "" {
		out.Header.Set("Authorization", "Bearer "+r.key)
	}
	for _, line := range r.header {
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			return nil, fmt.Errorf("header %q has no value", line)
		}
		out.Header.Add(name, value)
	}
	return out, nil
}

// try sends a request and reads the whole answer.
func (s *system) try(ctx context.Context, r request) (answer, error) {
	return s.visitor().fetch(ctx, r)
}

// A visitor is a client and the address that it knows.
type visitor struct {
	*http.Client
	base string
}

func (s *system) visitor() visitor {
	if s.guest.Client != nil {
		return s.guest
	}
	return visitor{client, s.port.url()}
}

func fetch(ctx context.Context, base string, r request) (answer, error) {
	return visitor{client, base}.fetch(ctx, r)
}

func (v visitor) fetch(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerMost)
	defer cancel()
	req, err := r.to(ctx, v.base)
	if err != nil {
		return answer{}, err
	}
	resp, err := v.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

// send is try where no answer at all is a failure.
func (s *system) send(t *testing.T, r request) answer {
	t.Helper()
	a, err := s.try(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// pass sends a request that must be answered 200.
func (s *system) pass(t *testing.T, r request) answer {
	t.Helper()
	a := s.send(t, r)
	if a.status != http.StatusOK {
		t.Fatalf("status %d, want 200: %s", a.status, a.body)
	}
	return a
}

// number reads a header that must be a number.
func (a answer) number(t *testing.T, name string) int64 {
	t.Helper()
	return numberIn(t, a.header, name)
}

func numberIn(t *testing.T, h http.Header, name string) int64 {
	t.Helper()
	var n int64
	if _, err := fmt.Sscanf(h.Get(name), "%d", &n); err != nil {
		t.Fatalf("header %s is %q, want a number", name, h.Get(name))
	}
	return n
}

// busy says that a request was refused because of too many at once.
func (a answer) busy() bool {
	return a.status == http.StatusTooManyRequests && strings.Contains(a.body, `"concurrency_limit_exceeded"`)
}

// settled sends a request again for as long as slots of requests that have just ended are not free yet: Envoy tells the
// service of the end when it tells the client.
func (s *system) settled(t *testing.T, r request) answer {
	t.Helper()
	var a answer
	eventually(t, soon, "the slots of requests that have ended are free", func() bool {
		a = s.send(t, r)
		return !a.busy()
	})
	return a
}

// A stream is an answer that may not have ended. It is read as it comes.
type stream struct {
	status int
	header http.Header
	tokens atomic.Int64 // events that bring a token
	cut    context.CancelFunc
	ended  chan struct{} // closed once err and body are set
	body   string
	err    error
}

// open sends a request and returns with the headers of the answer.
func (s *system) open(t *testing.T, r request) *stream {
	t.Helper()
	return s.openAll(t, 1, r)[0]
}

// openAll sends n requests at once and returns when all have headers, in no order.
func (s *system) openAll(t *testing.T, n int, r request) []*stream {
	t.Helper()
	streams, errs := make([]*stream, n), make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { streams[i], errs[i] = s.visitor().dial(t.Context(), r) })
	}
	group.Wait()
	t.Cleanup(func() {
		for _, opened := range streams {
			if opened != nil {
				opened.cut()
				<-opened.ended
			}
		}
	})
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return streams
}

func (v visitor) dial(ctx context.Context, r request) (*stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	req, err := r.to(ctx, v.base)
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := v.Do(req) //nolint:bodyclose // read closes it.
	if err != nil {
		cancel()
		return nil, err
	}
	out := &stream{status: resp.StatusCode, header: resp.Header, cut: cancel, ended: make(chan struct{})}
	go out.read(resp.Body)
	return out, nil
}

// tokenEvent finds the text in an event of any protocol.
var tokenEvent = regexp.MustCompile(`"content":"[^"]|"text":"[^"]|"delta":"[^"]`)

func (s *stream) read(body io.ReadCloser) {
	defer close(s.ended)
	defer func() { _ = body.Close() }()
	in := bufio.NewReader(body)
	var all strings.Builder
	for s.err == nil {
		var line string
		line, s.err = in.ReadString('\n')
		all.WriteString(line)
		if tokenEvent.MatchString(line) {
			s.tokens.Add(1)
		}
	}
	s.body = all.String()
	if s.err == io.EOF { //nolint:errorlint // A cut stream has io.ErrUnexpectedEOF; only this one is the end.
		s.err = nil
	}
}

// awaitTokens waits until that many tokens have come.
func (s *stream) awaitTokens(t *testing.T, n int64) {
	t.Helper()
	eventually(t, answerMost, fmt.Sprintf("%d tokens have come", n), func() bool { return s.tokens.Load() >= n })
}

// end waits for the end and returns the body and what cut it short.
func (s *stream) end(t *testing.T) (string, error) {
	t.Helper()
	timer := time.NewTimer(soon)
	defer timer.Stop()
	select {
	case <-s.ended:
		return s.body, s.err
	case <-timer.C:
		t.Fatalf("the stream did not end within %s", soon)
		return "", nil
	}
}

// A received is what the demo upstream says of a request that reached it.
type received struct {
	Path         string              `json:"path"`
	Model        string              `json:"model"`
	Outcome      string              `json:"outcome"`
	InputTokens  int64               `json:"input_tokens"`
	OutputTokens int64               `json:"output_tokens"`
	CachedTokens int64               `json:"cached_tokens"`
	BytesRead    int64               `json:"bytes_read"`
	Headers      map[string][]string `json:"headers"`
	Query        map[string][]string `json:"query"`
}

// upstream is the latest request for a model that has ended at the demo upstream.
func (s *system) upstream(t *testing.T, model string) received {
	t.Helper()
	var last received
	eventually(t, soon, "the demo upstream has ended a request for "+model, func() bool {
		found := false
		for _, r := range s.requests(t) {
			if r.Model == model {
				last, found = r, r.Outcome != "open"
			}
		}
		return found
	})
	return last
}

func (s *system) requests(t *testing.T) []received {
	t.Helper()
	var out struct {
		Requests []received `json:"requests"`
	}
	decode(t, s.history(t), &out)
	return out.Requests
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// history is what the demo upstream tells of all requests, as it tells it.
func (s *system) history(t *testing.T) string {
	t.Helper()
	a, err := fetch(t.Context(), "http://"+s.demo, request{method: http.MethodGet, path: "/demo/requests"})
	if err != nil {
		t.Fatal(err)
	}
	return a.body
}
