package envoy_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A witness is a provider that keeps what reaches it and answers as it is asked to.
type witness struct {
	*httptest.Server

	mu   sync.Mutex
	seen map[string][]*http.Request // by the header x-case; bodies are read
}

// What a witness answers, by the header x-answer. Usage stands where any protocol looks for it.
var testimonies = map[string]struct {
	status            int
	contentType, body string
}{
	"": {200, "application/json", `{"object":"chat.completion","usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12,` +
		`"input_tokens":5,"output_tokens":7},"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":7,"totalTokenCount":12}}`},
	"without usage":    {200, "application/json", `{"object":"chat.completion","choices":[{"message":{"content":"` + strings.Repeat("word", 200) + `"}}]}`},
	"events, no usage": {200, "text/event-stream", strings.Repeat(`data: {"object":"chat.completion.chunk","choices":[{"delta":{"content":"word"}}]}`+"\n\n", 50)},
	"failure":          {503, "application/json", `{}`},
	"an image in an event": {200, "text/event-stream", `data: {"type":"image_generation.completed","b64_json":"` + strings.Repeat("A", 3<<20) +
		`","usage":{"input_tokens":5,"output_tokens":7,"total_tokens":12}}` + "\n\n"},
	"bytes":             {200, "application/x-protobuf", strings.Repeat("word", 250)},
	"absurd":            {200, "text/event-stream", strings.Repeat(`data: {"x":1}`+"\n\n", 700) + `data: {"response":{"usage":{"input_tokens":-7,"output_tokens":1e300}}}` + "\n\n"},
	"hardly any events": {200, "text/event-stream", "data: {}\n\n"},
}

func newWitness(t *testing.T) *witness {
	t.Helper()
	w := &witness{seen: map[string][]*http.Request{}}
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Close)
	return w
}

// ServeHTTP implements http.Handler.
func (w *witness) ServeHTTP(to http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	w.mu.Lock()
	w.seen[r.Header.Get("x-case")] = append(w.seen[r.Header.Get("x-case")], r)
	w.mu.Unlock()
	says := testimonies[r.Header.Get("x-answer")]
	to.Header().Set("Content-Type", says.contentType)
	to.Header().Set("X-Request-Priority", "9")
	to.WriteHeader(says.status)
	_, _ = io.WriteString(to, says.body)
}

// of is what reached the witness of a case.
func (w *witness) of(name string) []*http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen[name])
}

// witnessed starts a system in front of a witness. More is fields of the gateway's spec, and identity of its identity.
func witnessed(t *testing.T, identity, more string, docs ...string) (*system, *witness) {
	t.Helper()
	w := newWitness(t)
	gateway := fmt.Sprintf(`
apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {name: main}
spec:
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends: [{name: witness, endpoints: [{address: 127.0.0.1, port: %d}]}]
  routes:
  - {name: chat, matches: [{path: {type: Exact, value: /v1/chat/completions}, method: POST}], type: Backend, backendName: witness, protocol: OpenAIChatCompletions, resource: chat}
  - {name: responses, matches: [{path: {type: Exact, value: /v1/responses}, method: POST}], type: Backend, backendName: witness, protocol: OpenAIResponses, resource: chat}
  - {name: messages, matches: [{path: {type: Exact, value: /v1/messages}, method: POST}], type: Backend, backendName: witness, protocol: AnthropicMessages, resource: chat}
  - {name: speech, matches: [{path: {type: Exact, value: /v1/audio/speech}, method: POST}], type: Backend, backendName: witness, protocol: JSONBody, resource: audio}
  - {name: gemini, matches: [{path: {type: PathPrefix, value: /v1beta/models}, method: POST}], type: Backend, backendName: witness, protocol: GeminiGenerateContent, resource: chat}
  - {name: models, matches: [{path: {type: PathPrefix, value: /v1beta/models}}], type: Backend, backendName: witness, protocol: OpaqueBody, metering: Unmetered}
  identity:
    sources: [{header: Authorization, prefix: "Bearer "}, {header: x-api-key}, {header: x-goog-api-key}, {queryParameter: key}]
%s
%s
  headers: {dialects: [{type: PerMetric, perMetric: {requestsReset: UnixSeconds, tokensReset: UnixSeconds}}, {type: PerResource}]}
`, portOf(w.Listener), identity, more)
	s := startWithoutDemo(t, manifests(append([]string{gateway, tier("plan", "{metric: Requests, per: Day, max: 1000}"), holder("good", "plan", keyGood)}, docs...)...))
	clearOf(t, 24*time.Hour)
	return s, w
}

// A stranger is counted by the address that the connection has, whatever he writes.
func TestAForgedAddressChangesNobodysCounter(t *testing.T) {
	t.Parallel()
	s, _ := witnessed(t, "    missingKey: {action: AssignTier, tierRef: {name: plan}}", "")
	for i, forged := range [][]string{
		nil,
		{"x-forwarded-for: 203.0.113.7"},
		{"x-forwarded-for: 203.0.113.8, 198.51.100.1"},
		{"x-forwarded-for: 203.0.113.9", "x-forwarded-for: 198.51.100.2"},
		{"x-forwarded-for: 2001:db8::1"},
		{"x-forwarded-for: unknown, , 1.2.3.4:80"},
		{"forwarded: for=203.0.113.10", "x-real-ip: 203.0.113.11", "true-client-ip: 203.0.113.12", "cf-connecting-ip: 203.0.113.13"},
		{"x-envoy-external-address: 203.0.113.14", "x-envoy-internal: true", "remote_address: 203.0.113.15"},
	} {
		if used := s.pass(t, chat("", prompt{}, forged...)).number(t, "x-ratelimit-used"); used != int64(i+1) {
			t.Errorf("%q: %d are used of the stranger's requests, want %d", forged, used, i+1)
		}
	}
}

// A trusted proxy adds the address of its client at the end. What stands before that anybody may have written.
func TestOfForwardedAddressesOnlyTheLastIsBelieved(t *testing.T) {
	t.Parallel()
	s, _ := witnessed(t, "    missingKey: {action: AssignTier, tierRef: {name: plan}}\n    trustedProxyHops: 1", "")
	for _, step := range []struct {
		address string
		used    int64
	}{
		{"198.51.100.1", 1},
		{"203.0.113.7, 198.51.100.1", 2},
		{"203.0.113.8, 203.0.113.9, 198.51.100.1", 3},
		{"198.51.100.1, 198.51.100.2", 1}, // another client
		{"198.51.100.2", 2},
		{"2001:db8:1:2::1", 1},
		{"198.51.100.1, 2001:db8:1:2:ffff::9", 2}, // of the same network
		{"2001:db8:1:3::1", 1},
		{"", 1}, // the proxy itself
		{"198.51.100.1, none", 2},
	} {
		var header []string
		if step.address != "" {
			header = append(header, "x-forwarded-for: "+step.address)
		}
		if used := s.pass(t, chat("", prompt{}, header...)).number(t, "x-ratelimit-used"); used != step.used {
			t.Errorf("x-forwarded-for %q: %d are used, want %d", step.address, used, step.used)
		}
	}
}

// Headers by which this project, and Envoy, talk to themselves mean nothing where a client writes them.
func TestForgedInternalHeadersReachNobodyAndDoNothing(t *testing.T) {
	t.Parallel()
	s, w := witnessed(t, "", "")
	retry := []string{"x-envoy-retry-on: 5xx,gateway-error,retriable-status-codes", "x-envoy-retriable-status-codes: 503", "x-envoy-max-retries: 5", "x-envoy-retry-grpc-on: unavailable"}
	for name, tc := range map[string]struct {
		header []string
		status int
	}{
		"ours":            {[]string{"x-tk-content-type: text/event-stream", "x-tk-pool: dedicated", "X-TK-Lease: AAAA", "x-tk-: 1"}, 200},
		"Envoy's":         {[]string{"x-envoy-original-path: /v1/messages", "x-envoy-attempt-count: 9", "x-envoy-peer-metadata: x", "x-envoy-decorator-operation: x", "x-envoy-ratelimited: true", "x-envoy-force-trace: true"}, 200},
		"to retry":        {append([]string{"x-answer: failure"}, retry...), 503},
		"to give up soon": {[]string{"x-envoy-upstream-rq-timeout-ms: 0", "x-envoy-expected-rq-timeout-ms: 1", "x-envoy-upstream-rq-per-try-timeout-ms: 1"}, 200},
		"of addresses":    {[]string{"x-forwarded-for: 127.0.0.1", "forwarded: for=127.0.0.1", "x-real-ip: 127.0.0.1"}, 200},
		"of a request id": {[]string{"x-request-id: forged", "x-b3-traceid: 463ac35c9f6413ad48485a3953bb6124"}, 200},
	} {
		a := s.send(t, chat(keyGood, prompt{model: name}, append(tc.header, "x-case: "+name)...))
		got := w.of(name)
		if a.status != tc.status || len(got) != 1 {
			t.Errorf("%s: status %d after %d requests at the provider, want %d after 1: %s", name, a.status, len(got), tc.status, a.body)
			continue
		}
		for header, values := range got[0].Header {
			h := strings.ToLower(header)
			if strings.HasPrefix(h, "x-tk-") || strings.HasPrefix(h, "x-envoy-") || strings.Contains(strings.Join(values, ","), "127.0.0.1") && h != "host" {
				t.Errorf("%s: the provider got %s: %q", name, h, values)
			}
		}
		for header, values := range a.header {
			if h := strings.ToLower(header); strings.HasPrefix(h, "x-tk-") || strings.HasPrefix(h, "x-envoy-") {
				t.Errorf("%s: the client got %s: %q", name, h, values)
			}
		}
		if id := got[0].Header.Values("x-request-id"); len(id) != 1 || id[0] == "forged" || len(id[0]) != 36 {
			t.Errorf("%s: the provider got the request ids %q, want one of Envoy's", name, id)
		}
		if reserved, settled := s.settlement(t, name); tc.status == 200 && (reserved["holder"] != "default/good" || settled["outputTokens"] != "7") {
			t.Errorf("%s: %v was settled as %v, want 7 tokens of default/good", name, reserved, settled)
		}
	}
}

// speaking are clients of both versions of HTTP.
func speaking() map[string]*http.Client {
	var h1, h2 http.Protocols
	h1.SetHTTP1(true)
	h2.SetUnencryptedHTTP2(true)
	return map[string]*http.Client{
		"HTTP/1.1": {Transport: &http.Transport{Protocols: &h1, DisableCompression: true, DisableKeepAlives: true}},
		"HTTP/2":   {Transport: &http.Transport{Protocols: &h2, DisableCompression: true}},
	}
}

// sendBy is send with a client, and returns nothing but what is told in short, with the limit of whoever is counted.
func (s *system) sendBy(t *testing.T, c *http.Client, r request) string {
	t.Helper()
	req, err := r.to(t.Context(), s.port.url())
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		return "limit " + resp.Header.Get("x-ratelimit-limit")
	}
	return verdict(answer{resp.StatusCode, resp.Header, string(body)}, nil)
}

func TestSeveralKeysAreOneKeyOrNone(t *testing.T) {
	t.Parallel()
	s, w := witnessed(t, "", "", tier("other", "{metric: Requests, per: Day, max: 77}"), holder("other", "other", "key-other"))
	const good, other, conflict, missing, invalid = "limit 1000", "limit 77", "401 conflicting_api_keys", "401 missing_api_key", "401 invalid_api_key"
	cases := map[string]struct {
		query  string
		header []string
		want   string
	}{
		"one":                             {"", []string{"Authorization: Bearer key-good"}, good},
		"the header twice":                {"", []string{"Authorization: Bearer key-good", "Authorization: Bearer key-good"}, good},
		"two headers":                     {"", []string{"Authorization: Bearer key-good", "Authorization: Bearer key-other"}, conflict},
		"two headers, the other first":    {"", []string{"Authorization: Bearer key-other", "Authorization: Bearer key-good"}, conflict},
		"joined":                          {"", []string{"Authorization: Bearer key-good, Bearer key-other"}, conflict},
		"joined, the same":                {"", []string{"Authorization: Bearer key-good,Bearer key-good"}, good},
		"joined with one that none holds": {"", []string{"Authorization: Bearer key-good, Bearer nobody"}, conflict},
		"beside another scheme":           {"", []string{"Authorization: Basic eDp5", "Authorization: Bearer key-other"}, other},
		"in one value":                    {"", []string{"Authorization: Bearer key-good key-other"}, invalid},
		"in two places":                   {"", []string{"Authorization: Bearer key-good", "x-api-key: key-other"}, conflict},
		"in two places, the same":         {"?key=key-other", []string{"x-goog-api-key: key-other", "x-api-key: key-other"}, other},
		"in header and query":             {"?key=key-other", []string{"Authorization: Bearer key-good"}, conflict},
		"in a query that is encoded":      {"?%6bey=key%2Dother", []string{"Authorization: Bearer key-good"}, conflict},
		"bytes that are no text":          {"", []string{"Authorization: Bearer key-good\xff"}, invalid},
		"such bytes beside a key":         {"", []string{"Authorization: Bearer key-good", "x-api-key: \xe9"}, conflict},
		"such bytes in the query":         {"?key=%ff", nil, invalid},
		"such bytes without a key":        {"", []string{"Authorization: \xff\xfe"}, missing},
		"a line end in the query":         {"?key=key-good%0d%0a", nil, good},
	}
	for version, c := range speaking() {
		for name, tc := range cases {
			r := request{path: chatPath + tc.query, body: prompt{}.chat(), header: append(tc.header, "x-case: "+version+name)}
			if got := s.sendBy(t, c, r); got != tc.want {
				t.Errorf("%s, %s: %s, want %s", version, name, got, tc.want)
			}
			if reached, passes := len(w.of(version+name)), strings.HasPrefix(tc.want, "limit"); (reached == 1) != passes {
				t.Errorf("%s, %s: it reached the provider %d times", version, name, reached)
			}
		}
	}
}

// What a client writes must not keep the signs of life of its request, or of others, from the service: slots would be free
// while streams go on.
func TestNobodyHidesThatHeIsStillThere(t *testing.T) {
	t.Parallel()
	s := start(t, manifests(gateway, tier("few", "concurrency: 3"), holder("few", "few", "key-few"), tier("one", "concurrency: 1"), holder("other", "one", "key-other")))
	began := time.Now()
	for _, r := range []request{
		chat("key-few", prompt{stream: true}, "x-demo-token-delay: 1h", "user-agent: \xff\xfe"),
		chat("key-few", prompt{stream: true}, "x-demo-token-delay: 1h", "referer: \xc3", "x-forwarded-for: \xff", "x-request-id: \xff"),
		{path: chatPath + "?%ff=%ff", key: "key-few", body: prompt{stream: true}.chat(), header: []string{"x-demo-token-delay: 1h"}},
		endless("key-other"),
	} {
		if st := s.open(t, r); st.status != http.StatusOK {
			t.Fatalf("%v: a stream got %d", r.header, st.status)
		}
	}
	eventually(t, slotExpiry+soon, "slots without a sign of life have expired", func() bool { return time.Since(began) > slotExpiry+2*time.Second })
	for _, key := range []string{"key-few", "key-other"} {
		if a := s.send(t, chat(key, prompt{})); !a.busy() {
			t.Errorf("%s: while all streams go on, another request got %d: %s", key, a.status, a.body)
		}
	}
}
