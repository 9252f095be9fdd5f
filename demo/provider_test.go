package demo_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/demo"
)

func TestBadInput(t *testing.T) {
	t.Parallel()
	const oneMessage = `"messages":[{"role":"user","content":"a"}]`
	cases := map[string]struct {
		path, body string
		param      any
	}{
		"not JSON":             {chatPath, `{"model":`, nil},
		"empty":                {chatPath, ``, nil},
		"a list":               {chatPath, `[]`, nil},
		"two objects":          {chatPath, chatBody + chatBody, nil},
		"no model":             {chatPath, `{` + oneMessage + `}`, "model"},
		"model is a number":    {chatPath, `{"model":4,` + oneMessage + `}`, "model"},
		"no messages":          {chatPath, `{"model":"m"}`, "messages"},
		"content is a number":  {chatPath, `{"model":"m","messages":[{"content":4}]}`, "content"},
		"max_tokens is 0":      {chatPath, `{"model":"m","max_tokens":0,` + oneMessage + `}`, "max_tokens"},
		"max_tokens is text":   {chatPath, `{"model":"m","max_tokens":"9",` + oneMessage + `}`, "max_tokens"},
		"completion tokens":    {chatPath, `{"model":"m","max_completion_tokens":-1,` + oneMessage + `}`, "max_completion_tokens"},
		"no choice":            {chatPath, `{"model":"m","n":0,` + oneMessage + `}`, "n"},
		"too many choices":     {chatPath, `{"model":"m","n":129,` + oneMessage + `}`, "n"},
		"completion of what":   {completionsPath, `{"model":"m"}`, "prompt"},
		"completion of mixed":  {completionsPath, `{"model":"m","prompt":["a",4]}`, "prompt"},
		"completion, by whom":  {completionsPath, `{"prompt":"a"}`, "model"},
		"too many completions": {completionsPath, `{"model":"m","prompt":["a","b"],"n":9223372036854775807}`, "n"},
		"response, by whom":    {responsesPath, `{"input":"a"}`, "model"},
		"response of a number": {responsesPath, `{"model":"m","input":4}`, "content"},
		"response of none":     {responsesPath, `{"model":"m","input":"a","max_output_tokens":0}`, "max_output_tokens"},
		"an image of what":     {imagesPath, `{"model":"gpt-image-1"}`, "prompt"},
		"too many images":      {imagesPath, `{"prompt":"a","n":129}`, "n"},
		"speech by whom":       {speechPath, `{"input":"a"}`, "model"},
		"speech of what":       {speechPath, `{"model":"tts-1"}`, "input"},
		"speech in what":       {speechPath, `{"model":"tts-1","input":"a","response_format":"tape"}`, "response_format"},
		"video by whom":        {"/v1/video/queue", `{"prompt":"a"}`, "model"},
		"a form that is none":  {editsPath, `{}`, nil},
		"embeddings of what":   {"/v1/embeddings", `{"model":"m"}`, "input"},
		"embeddings of no":     {"/v1/embeddings", `{"model":"m","input":[]}`, "input"},
		"embeddings of null":   {"/v1/embeddings", `{"model":"m","input":null}`, "input"},
		"embeddings of mixed":  {"/v1/embeddings", `{"model":"m","input":["a",4]}`, "input"},
		"embeddings of object": {"/v1/embeddings", `{"model":"m","input":{}}`, "input"},
		"embeddings, by whom":  {"/v1/embeddings", `{"input":"a"}`, "model"},
		"too many dimensions":  {"/v1/embeddings", `{"model":"m","input":"a","dimensions":3073}`, "dimensions"},
		"too many embeddings": {
			"/v1/embeddings",
			`{"model":"m","input":["a"` + strings.Repeat(`,"a"`, 2048) + `]}`, "input",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			a := f.post(t, tc.path, tc.body)
			e, _ := parse(t, a.body)["error"].(map[string]any)
			if a.status != http.StatusBadRequest || e["type"] != "invalid_request_error" || e["param"] != tc.param || e["message"] == "" {
				t.Errorf("got %d %s, want 400 for %v", a.status, a.body, tc.param)
			}
			if r := f.only(t); r.Status != http.StatusBadRequest || r.Outcome != demo.Done || r.OutputTokens != 0 {
				t.Errorf("remembered %d, %s, %d tokens", r.Status, r.Outcome, r.OutputTokens)
			}
		})
	}
}

func TestBadInputToAnthropic(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"not JSON": `{`, "no model": `{"messages":[{"content":"a"}]}`, "no messages": `{"model":"m","messages":[]}`,
		"no room": `{"model":"m","max_tokens":0,"messages":[{"content":"a"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := start(t).post(t, messagesPath, body)
			got := parse(t, a.body)
			e, _ := got["error"].(map[string]any)
			if a.status != http.StatusBadRequest || got["type"] != "error" || e["type"] != "invalid_request_error" ||
				got["request_id"] != a.header.Get("Request-Id") {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
}

func TestTooManyTokensInAllChoices(t *testing.T) {
	t.Parallel()
	if a := start(t).post(t, chatPath, `{"n":2,`+chatBody[1:], "x-demo-tokens: 1000000"); a.status != http.StatusBadRequest {
		t.Errorf("got %d", a.status)
	}
}

func TestOtherPaths(t *testing.T) {
	t.Parallel()
	f := start(t)
	cases := map[string]struct {
		method, path, body string
		status             int
		want               string
	}{
		"healthz":    {"GET", "/healthz", "", 200, "ok\n"},
		"opaque":     {"POST", "/v1/files?key=sk-secret", "any\x00thing", 200, `{"object":"demo.reply","method":"POST","path":"/v1/files","body_bytes":9}`},
		"opaque get": {"GET", "/v1/batches", "", 200, `{"object":"demo.reply","method":"GET","path":"/v1/batches","body_bytes":0}`},
		"preflight":  {"OPTIONS", chatPath, "", 200, `{"object":"demo.reply","method":"OPTIONS","path":"/v1/chat/completions","body_bytes":0}`},
		"odd path":   {"GET", "/a//b/../%22c", "", 200, `{"object":"demo.reply","method":"GET","path":"/a//b/../\"c","body_bytes":0}`},
		"get chat":   {"GET", chatPath, "", 405, `{"error":{"message":"This path takes POST only.","type":"invalid_request_error","param":null,"code":"method_not_supported"}}`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := f.do(t, tc.method, tc.path, tc.body)
			if a.err != nil || a.status != tc.status || a.body != tc.want {
				t.Errorf("got %d %s (%v), want %d %s", a.status, a.body, a.err, tc.status, tc.want)
			}
		})
	}
}

// zeros is a body of any length that takes no memory.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestLargeBodies(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("a", 4<<20)
	cases := map[string]struct {
		path   string
		body   io.Reader
		status int
		tokens int
	}{
		"4 MiB of text":      {chatPath, strings.NewReader(`{"model":"m","messages":[{"content":"` + text + `"}]}`), 200, 1 << 20},
		"opaque, at the cap": {"/v1/files", io.LimitReader(zeros{}, demo.MaxBodyBytes), 200, 0},
		"opaque, above":      {"/v1/files", io.LimitReader(zeros{}, demo.MaxBodyBytes+1), 413, 0},
		"messages, above":    {messagesPath, io.LimitReader(zeros{}, demo.MaxBodyBytes+1), 413, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := demo.New()
			w := httptest.NewRecorder()
			p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, tc.path, tc.body))
			if w.Code != tc.status || p.Requests()[0].InputTokens != tc.tokens {
				t.Errorf("got %d with %d tokens, want %d with %d", w.Code, p.Requests()[0].InputTokens, tc.status, tc.tokens)
			}
			if tc.status == 413 && !strings.Contains(w.Body.String(), `request_too_large`) {
				t.Errorf("got %s", w.Body)
			}
		})
	}
}

// TestWhatReachedTheProvider is what tests of a gateway ask: everything is there for them, and no secret for others.
func TestWhatReachedTheProvider(t *testing.T) {
	t.Parallel()
	f := start(t)
	theirs := "Bearer " + "sk-provider-key"
	f.post(t, chatPath+"?key=sk-client-key&alt=sse", chatBody, "Authorization: "+theirs, "x-envoy-original-path: /?key=sk-client-key",
		"x-request-id: r1", "x-demo-tokens: 3", "x-custom-key: sk-client-key")
	shown := f.do(t, http.MethodGet, "/demo/requests", "")
	if strings.Contains(shown.body, "sk-") {
		t.Errorf("a secret in %s", shown.body)
	}
	entry := parse(t, shown.body)["requests"].([]any)[0].(map[string]any)
	digest := func(s string) any {
		return []any{fmt.Sprintf("sha256:%x (%d bytes)", sha256.Sum256([]byte(s)), len(s))}
	}
	headers := entry["headers"].(map[string]any)
	for name, want := range map[string]any{
		"authorization": digest(theirs), "x-custom-key": digest("sk-client-key"),
		"x-demo-tokens": []any{"3"}, "x-request-id": []any{"r1"},
	} {
		if diff := cmp.Diff(want, headers[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	delete(entry, "headers")
	want := map[string]any{
		"id": "r1", "method": "POST", "path": chatPath, "model": "gpt-4o", "stream": false, "started": "2026-03-01T12:00:00Z",
		"status": 200.0, "outcome": "done", "input_tokens": 5.0, "cached_tokens": 0.0, "output_tokens": 3.0,
		"bytes_read": float64(len(chatBody)), "bytes_written": entry["bytes_written"],
		"query": map[string]any{"key": digest("sk-client-key"), "alt": digest("sse")},
	}
	if diff := cmp.Diff(want, entry); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	r := f.only(t)
	if r.Header.Get("Authorization") != theirs || r.RawQuery != "key=sk-client-key&alt=sse" {
		t.Errorf("remembered %d headers, query of %d bytes", len(r.Header), len(r.RawQuery))
	}
	r.Header.Set("Authorization", "changed")
	if f.Requests()[0].Header.Get("Authorization") != theirs {
		t.Error("a caller could change what is remembered")
	}
}

func TestAnAnswerTellsWhichCredentialCame(t *testing.T) {
	t.Parallel()
	f := start(t)
	digest := func(name, v string) string {
		return fmt.Sprintf("%s sha256:%x (%d bytes)", name, sha256.Sum256([]byte(v)), len(v))
	}
	keys := []string{"Authorization: Bearer theirs", "x-goog-api-key: ours", "x-custom: other"}
	for _, status := range []string{"200", "503"} {
		a := f.post(t, chatPath, chatSSE, append(keys, "x-demo-credential: on", "x-demo-status: "+status)...)
		want := []string{digest("authorization", "Bearer theirs"), digest("x-goog-api-key", "ours")}
		if diff := cmp.Diff(want, a.header.Values("x-demo-credential")); diff != "" {
			t.Errorf("%s: credentials (-want +got):\n%s", status, diff)
		}
	}
	if a := f.post(t, chatPath, chatBody, keys...); a.header.Get("x-demo-credential") != "" {
		t.Errorf("unasked: %s", a.header.Get("x-demo-credential"))
	}
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	f := start(t, demo.WithHistory(3))
	if got := f.Requests(); len(got) != 0 {
		t.Errorf("%d requests before there was one", len(got))
	}
	for _, id := range []string{"1", "2", "3", "4", "5"} {
		f.post(t, "/"+strings.Repeat("x", 300), "", "x-request-id: "+id)
	}
	var ids []string
	for _, r := range f.Requests() {
		ids = append(ids, r.ID)
		if len(r.Path) != 256 {
			t.Errorf("%d bytes of path remembered", len(r.Path))
		}
	}
	if diff := cmp.Diff([]string{"3", "4", "5"}, ids); diff != "" {
		t.Errorf("remembered (-want +got):\n%s", diff)
	}
}

// TestConcurrently is for the race detector, and counts.
func TestConcurrently(t *testing.T) {
	t.Parallel()
	f := start(t)
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			path, body := chatPath, chatSSE
			if i%2 == 0 {
				path, body = messagesPath, messagesSSE
			}
			if a := f.do(t, http.MethodPost, path, body); a.err != nil || a.status != 200 {
				t.Errorf("got %d, %v", a.status, a.err)
			}
			f.Requests()
		})
	}
	all.Wait()
	f.server.Close()
	tokens := 0
	for _, r := range f.Requests() {
		tokens += r.OutputTokens
	}
	if want := 40 * 32; tokens != want {
		t.Errorf("remembered %d tokens, want %d", tokens, want)
	}
}
