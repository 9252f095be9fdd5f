package demo_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/demo"
)

// TestStatus wants the error of each protocol, whatever the body, and no tokens.
func TestStatus(t *testing.T) {
	t.Parallel()
	openAI := func(kind string, code any) func(string) map[string]any {
		return func(message string) map[string]any {
			return map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": code}}
		}
	}
	anthropic := func(kind string) func(string) map[string]any {
		return func(message string) map[string]any {
			return map[string]any{
				"type": "error", "request_id": "abc", "error": map[string]any{"type": kind, "message": message},
			}
		}
	}
	google := func(code float64, status string) func(string) map[string]any {
		return func(message string) map[string]any {
			return map[string]any{"error": map[string]any{"code": code, "message": message, "status": status}}
		}
	}
	cases := []struct {
		path   string
		status int
		want   func(string) map[string]any
	}{
		{chatPath, 400, openAI("invalid_request_error", nil)},
		{chatPath, 401, openAI("invalid_request_error", "invalid_api_key")},
		{chatPath, 404, openAI("invalid_request_error", "model_not_found")},
		{chatPath, 429, openAI("requests", "rate_limit_exceeded")},
		{chatPath, 500, openAI("server_error", nil)},
		{"/v1/embeddings", 503, openAI("server_error", nil)},
		{responsesPath, 429, openAI("requests", "rate_limit_exceeded")},
		{"/v1/images/generations", 503, openAI("server_error", nil)},
		{messagesPath, 400, anthropic("invalid_request_error")},
		{messagesPath, 401, anthropic("authentication_error")},
		{messagesPath, 402, anthropic("billing_error")},
		{messagesPath, 403, anthropic("permission_error")},
		{messagesPath, 404, anthropic("not_found_error")},
		{messagesPath, 413, anthropic("request_too_large")},
		{messagesPath, 422, anthropic("invalid_request_error")},
		{messagesPath, 429, anthropic("rate_limit_error")},
		{messagesPath, 503, anthropic("api_error")},
		{messagesPath, 504, anthropic("timeout_error")},
		{messagesPath, 529, anthropic("overloaded_error")},
		{messagesPath + "/count_tokens", 529, anthropic("overloaded_error")},
		{geminiPath, 400, google(400, "INVALID_ARGUMENT")},
		{geminiPath, 403, google(403, "PERMISSION_DENIED")},
		{geminiSSEPath, 429, google(429, "RESOURCE_EXHAUSTED")},
		{geminiListPath, 500, google(500, "INTERNAL")},
		{geminiPath, 503, google(503, "UNAVAILABLE")},
		{"/v1/models/gemini-2.5-flash:embedContent", 504, google(504, "DEADLINE_EXCEEDED")},
	}
	for _, tc := range cases {
		t.Run(fmt.Sprintf("%s %d", tc.path, tc.status), func(t *testing.T) {
			t.Parallel()
			f := start(t)
			a := f.post(t, tc.path, "not JSON", fmt.Sprintf("x-demo-status: %d", tc.status), "x-request-id: abc")
			if a.status != tc.status || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("got %d %s", a.status, a.header.Get("Content-Type"))
			}
			message := fmt.Sprintf("The demo upstream answers %d because x-demo-status says so.", tc.status)
			if diff := cmp.Diff(tc.want(message), parse(t, a.body)); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if r := f.only(t); r.Status != tc.status || r.InputTokens+r.OutputTokens != 0 || r.ID != "abc" {
				t.Errorf("remembered %s: %d with %d and %d tokens", r.ID, r.Status, r.InputTokens, r.OutputTokens)
			}
		})
	}
}

func TestDelays(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	slept := map[time.Duration]int{}
	f := start(t, demo.WithSleep(func(_ context.Context, d time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		slept[d]++
		return nil
	}))
	f.post(t, chatPath, chatSSE, "x-demo-delay: 500ms", "x-demo-token-delay: 100ms", "x-demo-tokens: 10")
	f.post(t, messagesPath, messagesSSE, "x-demo-token-delay: 3s", "x-demo-tokens: 1")
	f.post(t, messagesPath, messagesBody, "x-demo-delay: 1h", "x-demo-token-delay: 3s")
	want := map[time.Duration]int{500 * time.Millisecond: 1, 100 * time.Millisecond: 9, time.Hour: 1}
	if diff := cmp.Diff(want, slept); diff != "" {
		t.Errorf("slept (-want +got):\n%s", diff)
	}
}

// TestRealDelayEndsWithTheClient runs the timers that no test replaces.
func TestRealDelayEndsWithTheClient(t *testing.T) {
	t.Parallel()
	f := serve(t, demo.New())
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := f.server.Client().Do(f.request(ctx, t, http.MethodPost, chatPath, chatSSE, "x-demo-token-delay: 1h", "x-demo-delay: 1ms"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	stream := bufio.NewScanner(resp.Body)
	for stream.Scan() {
		if strings.Contains(stream.Text(), `"the"`) {
			break
		}
	}
	if r := f.Requests()[0]; r.Outcome != demo.Open || r.Status != 200 {
		t.Errorf("while it streams: %s, %d", r.Outcome, r.Status)
	}
	cancel()
	if r := f.only(t); r.Outcome != demo.ClientGone || r.OutputTokens != 1 {
		t.Errorf("after the client left: %s with %d tokens, want 1", r.Outcome, r.OutputTokens)
	}
}

func TestClientGoneBeforeTheHeaders(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	f := start(t, demo.WithSleep(func(server context.Context, _ time.Duration) error {
		cancel()
		<-server.Done()
		return server.Err()
	}))
	resp, err := f.server.Client().Do(f.request(ctx, t, http.MethodPost, chatPath, chatBody, "x-demo-delay: 1s"))
	if err == nil {
		_ = resp.Body.Close()
		t.Fatal("got an answer")
	}
	if r := f.only(t); r.Outcome != demo.ClientGone || r.Status != 0 || r.BytesWritten != 0 {
		t.Errorf("remembered %s, %d, %d bytes", r.Outcome, r.Status, r.BytesWritten)
	}
}

func TestAbort(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		path, body, after string
		token             string
		want              int
		whole             bool
	}{
		"chat":                 {chatPath, chatUsage, "10", `"delta":{"content"`, 10, false},
		"messages":             {messagesPath, messagesSSE, "10", "text_delta", 10, false},
		"completions":          {completionsPath, completionsUsage, "10", `"finish_reason":null`, 10, false},
		"responses":            {responsesPath, responsesSSE, "10", "output_text.delta\",", 10, false},
		"gemini":               {geminiSSEPath, geminiBody, "10", `"text":`, 10, false},
		"gemini's list":        {geminiListPath, geminiBody, "10", `"text":`, 10, false},
		"gemini json":          {geminiPath, geminiBody, "10", `"the old`, 0, false},
		"before the first":     {chatPath, chatSSE, "0", `"delta":{"content"`, 0, false},
		"after the last":       {messagesPath, messagesSSE, "32", "text_delta", 32, false},
		"never reached":        {chatPath, chatSSE, "33", `"delta":{"content"`, 32, true},
		"off":                  {chatPath, chatSSE, "off", `"delta":{"content"`, 32, true},
		"json, within":         {chatPath, chatBody, "10", `"the old`, 0, false},
		"embeddings, within":   {"/v1/embeddings", `{"model":"e","input":"a"}`, "1", `usage`, 0, false},
		"fixed reply, within":  {"/v1/files", ``, "1", `body_bytes`, 0, false},
		"every choice's count": {chatPath, `{"n":2,` + chatSSE[1:], "7", `"delta":{"content"`, 7, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			a := f.do(t, http.MethodPost, tc.path, tc.body, "x-demo-abort: "+tc.after)
			outcome := demo.Aborted
			if tc.whole {
				outcome = demo.Done
			}
			if tc.whole != (a.err == nil) || !tc.whole && !errors.Is(a.err, io.ErrUnexpectedEOF) {
				t.Errorf("the client saw %v, want a break: %t", a.err, !tc.whole)
			}
			if n := strings.Count(a.body, tc.token); a.status != 200 || (strings.Contains(tc.body, `"stream":true`) || tc.want > 0) && n != tc.want {
				t.Errorf("status %d, %d tokens came, want %d", a.status, n, tc.want)
			}
			if r := f.only(t); r.OutputTokens != tc.want || r.Outcome != outcome || r.BytesWritten != int64(len(a.body)) {
				t.Errorf("remembered %s with %d tokens, %d bytes; want %s with %d, %d",
					r.Outcome, r.OutputTokens, r.BytesWritten, outcome, tc.want, len(a.body))
			}
		})
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	f := start(t)
	a := f.do(t, http.MethodPost, chatPath, chatBody, "x-demo-reset: on", "x-demo-status: 503")
	if !errors.Is(a.err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v, want a reset", a.err)
	}
	if r := f.only(t); r.Outcome != demo.Aborted || r.Status != 0 || r.BytesWritten != 0 {
		t.Errorf("remembered %s, %d, %d bytes", r.Outcome, r.Status, r.BytesWritten)
	}
}

func TestRateLimitHeaders(t *testing.T) {
	t.Parallel()
	f := start(t)
	theirs := func(h http.Header) map[string]string {
		got := map[string]string{}
		for name := range h {
			if lower := strings.ToLower(name); strings.Contains(lower, "ratelimit") || lower == "retry-after" {
				got[lower] = h.Get(name)
			}
		}
		return got
	}
	for _, status := range []string{"200", "429"} {
		got := theirs(f.post(t, chatPath, chatBody, "x-demo-ratelimit: on", "x-demo-status: "+status).header)
		for _, line := range []string{
			"x-ratelimit-limit-requests: 7777777",
			"x-ratelimit-remaining-tokens: 7777770",
			"x-ratelimit-reset-requests: 1m17s",
			"x-ratelimit-limit: 7777777",
			"x-ratelimit-reset: 1772366477",
			"anthropic-ratelimit-input-tokens-limit: 7777777",
			"anthropic-ratelimit-output-tokens-reset: 2026-03-01T12:01:17Z",
			`ratelimit: "demo-upstream";r=7777770;t=77`,
			`ratelimit-policy: "demo-upstream";q=7777777;w=77`,
			"retry-after: 77",
		} {
			name, want, _ := strings.Cut(line, ": ")
			if got[name] != want {
				t.Errorf("%s: %s is %q, want %q", status, name, got[name], want)
			}
		}
	}
	if got := theirs(f.post(t, chatPath, chatBody).header); len(got) != 0 {
		t.Errorf("without the switch: %v", got)
	}
}

func TestBadSwitches(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ header, param, example string }{
		"status is no number":   {"x-demo-status: teapot", "x-demo-status", "x-demo-status: 503"},
		"status is a success":   {"x-demo-status: 204", "x-demo-status", "x-demo-status: 503"},
		"status is no status":   {"x-demo-status: 700", "x-demo-status", "x-demo-status: 503"},
		"delay has no unit":     {"x-demo-delay: 500", "x-demo-delay", "x-demo-delay: 500ms"},
		"delay is negative":     {"x-demo-delay: -1s", "x-demo-delay", "x-demo-delay: 500ms"},
		"delay is too long":     {"x-demo-delay: 61m", "x-demo-delay", "x-demo-delay: 500ms"},
		"token delay":           {"x-demo-token-delay: fast", "x-demo-token-delay", "x-demo-token-delay: 100ms"},
		"too many tokens":       {"x-demo-tokens: 1000001", "x-demo-tokens", "x-demo-tokens: 200"},
		"negative tokens":       {"x-demo-tokens: -1", "x-demo-tokens", "x-demo-tokens: 200"},
		"usage":                 {"x-demo-usage: some", "x-demo-usage", "x-demo-usage: none"},
		"abort":                 {"x-demo-abort: on", "x-demo-abort", "x-demo-abort: 10"},
		"rate limit":            {"x-demo-ratelimit: yes", "x-demo-ratelimit", "x-demo-ratelimit: on"},
		"reset":                 {"x-demo-reset: 1", "x-demo-reset", "x-demo-reset: on"},
		"cached":                {"x-demo-cached: all", "x-demo-cached", "x-demo-cached: 40"},
		"reasoning":             {"x-demo-reasoning: -1", "x-demo-reasoning", "x-demo-reasoning: 30"},
		"fail first":            {"x-demo-fail-first: on", "x-demo-fail-first", "x-demo-fail-first: 1"},
		"fail id":               {"x-demo-fail-id: " + strings.Repeat("x", 129), "x-demo-fail-id", "x-demo-fail-id: retry-7"},
		"credential":            {"x-demo-credential: sk-secret", "x-demo-credential", "x-demo-credential: on"},
		"no such switch":        {"x-demo-stauts: 503", "x-demo-stauts", "x-demo-status"},
		"empty":                 {"x-demo-delay: ", "x-demo-delay", "x-demo-delay: 500ms"},
		"secret not repeated":   {"x-demo-usage: sk-secret", "x-demo-usage", "x-demo-usage: none"},
		"unknown, not repeated": {"x-demo-key: sk-secret", "x-demo-key", "x-demo-status"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := start(t).post(t, chatPath, chatBody, tc.header)
			e, _ := parse(t, a.body)["error"].(map[string]any)
			message, _ := e["message"].(string)
			if a.status != http.StatusBadRequest || e["param"] != tc.param || e["code"] != "invalid_switch" ||
				!strings.Contains(message, tc.example) || strings.Contains(a.body, "sk-secret") {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
}

// TestDefaults sets switches for all requests and lets single requests say otherwise.
func TestDefaults(t *testing.T) {
	t.Parallel()
	var s demo.Switches
	for name, value := range map[string]string{
		"x-demo-status": "503", "X-Demo-Tokens": "2", "x-demo-usage": "none", "x-demo-abort": "1",
		"x-demo-ratelimit": "on", "x-demo-reset": "off", "x-demo-delay": "1s",
	} {
		if err := s.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Set("x-demo-tokens", "lots"); err == nil || !strings.Contains(err.Error(), "x-demo-tokens: 200") {
		t.Errorf("a bad default: %v", err)
	}
	f := start(t, demo.WithSwitches(s), demo.WithSleep(func(context.Context, time.Duration) error { return nil }))
	if a := f.post(t, chatPath, chatBody); a.status != 503 || a.header.Get("retry-after") != "77" {
		t.Errorf("got %d, retry-after %q", a.status, a.header.Get("retry-after"))
	}
	a := f.post(t, chatPath, chatBody, "x-demo-status: 200", "x-demo-abort: off", "x-demo-usage: full", "x-demo-ratelimit: off", "x-demo-delay: 0s")
	if a.status != 200 || !strings.Contains(a.body, `"completion_tokens":2`) || a.header.Get("retry-after") != "" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if a := f.post(t, chatPath, chatBody); a.status != 503 {
		t.Errorf("one request changed the defaults: %d", a.status)
	}
}

// TestSwitchesAreDocumented holds the package comment and GET /demo against each other.
func TestSwitchesAreDocumented(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	lines := func(text string) map[string]bool {
		found := map[string]bool{}
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "x-demo-") {
				found[line] = true
			}
		}
		return found
	}
	want, got := lines(file.Doc.Text()), lines(demo.Help())
	if diff := cmp.Diff(want, got); diff != "" || len(got) != 13 {
		t.Errorf("%d switches, package comment and Help differ (-comment +help):\n%s", len(got), diff)
	}
	if a := start(t).do(t, http.MethodGet, "/demo", ""); a.status != 200 || a.body != demo.Help() {
		t.Errorf("GET /demo: %d %q", a.status, a.body)
	}
}
