package envoy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Whoever is to blame, the request was made: it counts. Tokens count only if they were made.
func TestFailuresOfTheProviderCostARequestAndNoTokens(t *testing.T) {
	t.Parallel()
	s := daily(t)
	var requests, spent int64
	for name, tc := range map[string]struct {
		header string
		status int
	}{
		"unavailable": {"x-demo-status: 503", http.StatusServiceUnavailable},
		"bad":         {"x-demo-status: 400", http.StatusBadRequest},
		"its-own-429": {"x-demo-status: 429", http.StatusTooManyRequests},
		"reset":       {"x-demo-reset: on", http.StatusServiceUnavailable},
	} {
		for protocol, build := range map[string]func(string, prompt, ...string) request{"chat": chat, "messages": messages} {
			model := protocol + "-" + name
			a := s.send(t, build(keyStreams, prompt{model: model, stream: true}, tc.header))
			requests++
			if used := a.number(t, "x-ratelimit-used"); a.status != tc.status || used != requests {
				t.Errorf("%s: status %d with %d requests used, want %d with %d: %s", model, a.status, used, tc.status, requests, a.body)
			}
			if says := `"message":"The provider cannot be reached. Please retry after 2 seconds."`; name == "reset" &&
				(a.header.Get("retry-after") != "2" || !strings.Contains(a.body, says) || strings.Contains(a.body, "overloaded_error") != (protocol == "messages")) {
				t.Errorf("%s: got Retry-After %q and body %s, want 2 and %s in the shape of %s", model, a.header.Get("retry-after"), a.body, says, protocol)
			}
			_, settled := s.settlement(t, model)
			if settled["inputTokens"] != "0" || settled["outputTokens"] != "0" {
				t.Errorf("%s: cost %s + %s tokens, want none", model, settled["inputTokens"], settled["outputTokens"])
			}
		}
	}
	s.checkTokensSpent(t, "after-failures", &spent)
}

// A provider that dies half way has made tokens: they are charged as far as they came.
func TestAStreamThatTheProviderBreaksCostsWhatCame(t *testing.T) {
	t.Parallel()
	s := daily(t)
	for protocol, build := range map[string]func(string, prompt, ...string) request{"chat": chat, "messages": messages} {
		model := protocol + "-broken"
		st := s.open(t, build(keyStreams, prompt{model: model, content: paragraph, maxTokens: 1000, stream: true}, "x-demo-tokens: 1000", "x-demo-abort: 200"))
		if body, err := st.end(t); err == nil {
			t.Errorf("%s: the stream ends as if it was whole: %s", model, body[max(0, len(body)-200):])
		}
		_, settled := s.settlement(t, model)
		sent := s.upstream(t, model)
		if sent.OutputTokens != 200 || settled["outputEstimated"] != "true" {
			t.Errorf("%s: settled %v after %d tokens", model, settled, sent.OutputTokens)
		}
		near(t, model, settled.number(t, "outputTokens"), 200)
	}
}

func TestTheProvidersOwnLimitsStayHidden(t *testing.T) {
	t.Parallel()
	s := daily(t)
	for name, r := range map[string]request{
		"chat":           chat(keyStreams, prompt{}, "x-demo-ratelimit: on"),
		"chat stream":    chat(keyStreams, prompt{stream: true}, "x-demo-ratelimit: on"),
		"messages":       messages(keyStreams, prompt{}, "x-demo-ratelimit: on"),
		"images":         {path: imagesPath, key: keyStreams, body: "{}", header: []string{"x-demo-ratelimit: on"}},
		"its own 429":    chat(keyStreams, prompt{}, "x-demo-ratelimit: on", "x-demo-status: 429"),
		"its own outage": messages(keyStreams, prompt{}, "x-demo-ratelimit: on", "x-demo-status: 529"),
	} {
		a := s.send(t, r)
		for header, values := range a.header {
			if header == "Retry-After" {
				continue
			}
			if told := strings.Join(values, ","); strings.Contains(told, "77777") || strings.Contains(told, "demo-upstream") || len(values) > 1 {
				t.Errorf("%s: %s: %s", name, header, told)
			}
			for _, prefix := range []string{"Anthropic-Ratelimit", "Ratelimit"} {
				if strings.HasPrefix(header, prefix) {
					t.Errorf("%s: the client sees %s", name, header)
				}
			}
		}
		for header, want := range map[string]int64{
			"x-ratelimit-limit-requests": 1000, "x-ratelimit-limit-tokens": tokensPerDay, "x-ratelimit-limit": 1000, "x-request-priority": 2,
		} {
			if got := a.number(t, header); got != want {
				t.Errorf("%s: %s is %d, want %d", name, header, got, want)
			}
		}
		if a.status >= 400 && a.header.Get("Retry-After") != "77" {
			t.Errorf("%s: Retry-After is %q, want the provider's", name, a.header.Get("Retry-After"))
		}
	}
}

// The demo upstream tells digests of what it got in place of keys.
func TestTheProviderSeesNoKey(t *testing.T) {
	t.Parallel()
	s := daily(t)
	const rest = "?b=2%26x&a=%2F%20"
	direct := request{path: chatPath + rest, body: prompt{model: "direct"}.chat()}
	if _, err := fetch(t.Context(), "http://"+s.demo, direct); err != nil {
		t.Fatal(err)
	}
	want := s.upstream(t, "direct").Query
	for name, r := range map[string]request{
		"bearer":     chat(keyStreams, prompt{model: "bearer"}),
		"x-api-key":  chat("", prompt{model: "x-api-key"}, "x-api-key: "+keyStreams),
		"query":      {path: chatPath + rest + "&key=" + keyStreams + "&c=%20", body: prompt{model: "query"}.chat()},
		"twice":      chat(keyStreams, prompt{model: "twice"}, "x-api-key: "+keyStreams),
		"everywhere": {path: chatPath + rest + "&key=" + keyStreams, key: keyStreams, body: prompt{model: "everywhere"}.chat(), header: []string{"x-api-key: " + keyStreams}},
		"a second parameter": {
			path: fmt.Sprintf("%s?key=%s&key=%[2]s", chatPath, keyStreams), body: prompt{model: "a second parameter"}.chat(),
		},
	} {
		s.pass(t, r)
		sent := s.upstream(t, name)
		for _, header := range []string{"authorization", "x-api-key"} {
			if got, there := sent.Headers[header]; there {
				t.Errorf("%s: the provider got %s: %v", name, header, got)
			}
		}
		if got, there := sent.Query["key"]; there {
			t.Errorf("%s: the provider got ?key=: %v", name, got)
		}
		if strings.Contains(r.path, rest) {
			if diff := cmp.Diff(want, sent.Query, cmpopts.IgnoreMapEntries(func(name string, _ []string) bool { return name == "c" })); diff != "" {
				t.Errorf("%s: the rest of the query at the provider (-want +got):\n%s", name, diff)
			}
		}
	}
}

// Browsers ask before they send, without a key.
func TestPreflightCostsNothing(t *testing.T) {
	t.Parallel()
	s := daily(t)
	for range 3 {
		if a := s.send(t, request{method: http.MethodOptions}); a.status != http.StatusOK || a.header.Get("x-ratelimit-limit") != "" {
			t.Errorf("OPTIONS got %d: %s", a.status, a.body)
		}
	}
	if used := s.pass(t, chat(keyStreams, prompt{})).number(t, "x-ratelimit-used"); used != 1 {
		t.Errorf("%d requests are used, want 1", used)
	}
}

// A provider that says nothing, or nonsense, is told in the route's shape like one that cannot be reached.
func TestAProviderThatDoesNotSpeakIsToldAsWell(t *testing.T) {
	t.Parallel()
	silent, nonsense := listens(t, ""), listens(t, "Hello. This is not HTTP.\r\n\r\n")
	s := startWithoutDemo(t, manifests(fmt.Sprintf(`
apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {name: main}
spec:
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends:
  - {name: silent, endpoints: [{address: 127.0.0.1, port: %d}], timeouts: {idleStreamSeconds: 1}}
  - {name: nonsense, endpoints: [{address: 127.0.0.1, port: %d}]}
  routes:
  - {name: chat, matches: [{path: {type: Exact, value: /silent/chat}}], type: Backend, backendName: silent, protocol: OpenAIChatCompletions, resource: chat}
  - {name: messages, matches: [{path: {type: Exact, value: /silent/messages}}], type: Backend, backendName: silent, protocol: AnthropicMessages, resource: chat}
  - {name: gemini, matches: [{path: {type: PathPrefix, value: /silent/models}}], type: Backend, backendName: silent, protocol: GeminiGenerateContent, resource: chat}
  - {name: nonsense, matches: [{path: {type: Exact, value: /nonsense}}], type: Backend, backendName: nonsense, protocol: OpenAIChatCompletions, resource: chat}
  identity: {sources: [{header: Authorization, prefix: "Bearer "}]}
`, portOf(silent), portOf(nonsense)), tier("free"), holder("free", "free", keyStreams)))
	const late = "The provider did not answer in time. Ask for a stream if answers take long."
	for path, want := range map[string]answer{
		"/silent/chat":                     {status: 504, body: `{"error":{"code":"provider_timeout","message":"` + late + `","type":"timeout_error"}}`},
		"/silent/messages":                 {status: 504, body: `{"error":{"message":"` + late + `","type":"timeout_error"},"type":"error"}`},
		"/silent/models/m:generateContent": {status: 504, body: `{"error":{"code":504,"message":"` + late + `","status":"DEADLINE_EXCEEDED"}}`},
		"/nonsense":                        {status: 503, body: `{"error":{"code":"provider_unavailable","message":"The provider cannot be reached. Please retry after 2 seconds.","type":"service_unavailable"}}`},
	} {
		a := s.send(t, request{path: path, key: keyStreams, body: prompt{}.chat()})
		if a.status != want.status || strings.TrimSpace(a.body) != want.body {
			t.Errorf("%s got %d: %s, want %d: %s", path, a.status, a.body, want.status, want.body)
		}
	}
	conn := s.connect(t)
	_, _ = fmt.Fprintf(conn, "POST /silent/chat HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	if status, _, body := readAnswer(t, conn); status != http.StatusRequestTimeout || !strings.Contains(body, `"code":"request_timeout"`) {
		t.Errorf("half a request got %d: %s, want 408 request_timeout", status, body)
	}
}

// listens takes connections and answers each with the same, or with nothing.
func listens(t *testing.T, says string) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed at the end of the test
			}
			context.AfterFunc(t.Context(), func() { _ = conn.Close() })
			_, _ = io.WriteString(conn, says)
		}
	}()
	return l
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port } //nolint:forcetypeassert // It listens on TCP.
