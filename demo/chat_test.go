package demo_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/demo"
)

const (
	chatPath  = "/v1/chat/completions"
	chatBody  = `{"model":"gpt-4o","messages":[{"role":"user","content":"Say hello, please"}]}` // 17 bytes: 5 tokens
	chatSSE   = `{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Say hello, please"}]}`
	chatUsage = `{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},` +
		`"messages":[{"role":"user","content":"Say hello, please"}]}`
)

// TestChatOnTheWire holds the very bytes, so that a test of a gateway may hold what it passes on against them.
func TestChatOnTheWire(t *testing.T) {
	t.Parallel()
	const details = `"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":` +
		`{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}`
	const chunk = `data: {"id":"chatcmpl-000000000000000000000001","object":"chat.completion.chunk","created":1772366400,` +
		`"model":"gpt-4o","service_tier":"default","system_fingerprint":"fp_demo000000","choices":`
	cases := map[string]struct{ body, usage, contentType, want string }{
		"json": {
			body: chatBody, contentType: "application/json",
			want: `{"id":"chatcmpl-000000000000000000000001","object":"chat.completion","created":1772366400,"model":"gpt-4o",` +
				`"service_tier":"default","system_fingerprint":"fp_demo000000","choices":[{"index":0,"message":{"role":` +
				`"assistant","content":"the old man","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],` +
				`"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,` + details + `}}`,
		},
		"json without usage": {
			body: chatBody, usage: "none", contentType: "application/json",
			want: `{"id":"chatcmpl-000000000000000000000001","object":"chat.completion","created":1772366400,"model":"gpt-4o",` +
				`"service_tier":"default","system_fingerprint":"fp_demo000000","choices":[{"index":0,"message":{"role":` +
				`"assistant","content":"the old man","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}]}`,
		},
		"stream": {
			body: chatSSE, contentType: "text/event-stream; charset=utf-8",
			want: chunk + `[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
				chunk + `[{"index":0,"delta":{"content":"the"},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
				chunk + `[{"index":0,"delta":{"content":" old"},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
				chunk + `[{"index":0,"delta":{"content":" man"},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
				chunk + `[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}` + "\n\n" +
				"data: [DONE]\n\n",
		},
		"stream with usage": {
			body: chatUsage, contentType: "text/event-stream; charset=utf-8",
			want: chunk + `[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n" +
				chunk + `[{"index":0,"delta":{"content":"the"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n" +
				chunk + `[{"index":0,"delta":{"content":" old"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n" +
				chunk + `[{"index":0,"delta":{"content":" man"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n" +
				chunk + `[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}` + "\n\n" +
				chunk + `[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,` + details + `}}` + "\n\n" +
				"data: [DONE]\n\n",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			headers := []string{"x-demo-tokens: 3"}
			if tc.usage != "" {
				headers = append(headers, "x-demo-usage: "+tc.usage)
			}
			a := f.post(t, chatPath, tc.body, headers...)
			if diff := cmp.Diff(tc.want, a.body); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if got := a.header.Get("Content-Type"); a.status != http.StatusOK || got != tc.contentType {
				t.Errorf("got %d %s, want 200 %s", a.status, got, tc.contentType)
			}
			want := demo.Request{
				Method: "POST", Path: chatPath, Model: "gpt-4o", Stream: tc.body != chatBody, Started: someDay,
				Status: 200, Outcome: demo.Done, InputTokens: 5, OutputTokens: 3,
				BytesRead: int64(len(tc.body)), BytesWritten: int64(len(tc.want)), ID: "req_000000000000000000000001",
			}
			got := f.only(t)
			got.Header = nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStreamUsageCanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	a := start(t).post(t, chatPath, chatUsage, "x-demo-usage: none")
	if strings.Contains(a.body, "usage") {
		t.Errorf("usage in %s", a.body)
	}
}

// TestOutputTokens counts what was asked for against what is said, what came and what is remembered.
func TestOutputTokens(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		fields string
		tokens string
		want   int
		finish string
	}{
		"default":                     {"", "", 32, "stop"},
		"a maximum below":             {`"max_tokens":7,`, "", 7, "length"},
		"a maximum at the default":    {`"max_tokens":32,`, "", 32, "stop"},
		"a maximum above":             {`"max_tokens":4096,`, "", 32, "stop"},
		"the newer name":              {`"max_completion_tokens":5,`, "", 5, "length"},
		"both names, the lower holds": {`"max_tokens":9,"max_completion_tokens":6,`, "", 6, "length"},
		"as many as switched":         {"", "200", 200, "stop"},
		"switched, with a maximum":    {`"max_tokens":50,`, "200", 50, "length"},
		"none":                        {"", "0", 0, "stop"},
		"choices add up":              {`"n":3,"max_tokens":4,`, "", 12, "length"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			var headers []string
			if tc.tokens != "" {
				headers = append(headers, "x-demo-tokens: "+tc.tokens)
			}
			a := f.post(t, chatPath, `{`+tc.fields+chatBody[1:], headers...)
			var got struct {
				Choices []struct {
					FinishReason string `json:"finish_reason"`
					Message      struct{ Content string }
				}
				Usage struct {
					CompletionTokens int `json:"completion_tokens"`
				}
			}
			if err := json.Unmarshal([]byte(a.body), &got); err != nil {
				t.Fatal(err)
			}
			said := 0
			for _, c := range got.Choices {
				said += len(strings.Fields(c.Message.Content))
				if c.FinishReason != tc.finish {
					t.Errorf("finish_reason %q, want %q", c.FinishReason, tc.finish)
				}
			}
			if said != tc.want || got.Usage.CompletionTokens != tc.want {
				t.Errorf("%d words, usage %d, want %d", said, got.Usage.CompletionTokens, tc.want)
			}
			if r := f.only(t); r.OutputTokens != tc.want {
				t.Errorf("remembered %d, want %d", r.OutputTokens, tc.want)
			}

			streamed := start(t)
			s := streamed.post(t, chatPath, `{"stream":true,`+tc.fields+chatBody[1:], headers...)
			if n := strings.Count(s.body, `"delta":{"content"`); n != tc.want {
				t.Errorf("%d tokens in the stream, want %d", n, tc.want)
			}
			if r := streamed.only(t); r.OutputTokens != tc.want {
				t.Errorf("remembered %d of the stream, want %d", r.OutputTokens, tc.want)
			}
		})
	}
}
