package demo_test

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
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

// TestInputTokens also holds the claim that output sent back as input counts the same.
func TestInputTokens(t *testing.T) {
	t.Parallel()
	content := func(c string) string { return `{"model":"m","messages":[{"role":"user","content":` + c + `}]}` }
	echo := parse(t, start(t).post(t, chatPath, chatBody, "x-demo-tokens: 100").body)
	said := echo["choices"].([]any)[0].(map[string]any)["message"].(map[string]any)["content"].(string)
	cases := map[string]struct {
		path, body string
		want       int
	}{
		"nothing":              {chatPath, content(`""`), 1},
		"null":                 {chatPath, content(`null`), 1},
		"4 bytes":              {chatPath, content(`"abcd"`), 1},
		"5 bytes":              {chatPath, content(`"abcde"`), 2},
		"bytes, not letters":   {chatPath, content(`"ééé"`), 2},
		"escapes are not text": {chatPath, content(`"\u0061\u0061\u0061\u0061"`), 1},
		"parts":                {chatPath, content(`[{"type":"text","text":"abcd"},{"type":"image_url"},{"type":"text","text":"abcd"}]`), 2},
		"rounded once":         {chatPath, `{"model":"m","messages":[{"content":"a"},{"content":"b"},{"content":"c"}]}`, 1},
		"output sent back":     {chatPath, content(`"` + said + `"`), 100},
		"system":               {messagesPath, `{"model":"m","system":"abcd","messages":[{"role":"user","content":"abcd"}]}`, 2},
		"system in blocks":     {messagesPath, `{"model":"m","system":[{"type":"text","text":"abcdefgh"}],"messages":[{"content":"a"}]}`, 3},
		"a text":               {responsesPath, `{"model":"m","input":"abcdefgh"}`, 2},
		"instructions too":     {responsesPath, `{"model":"m","instructions":"abcd","input":"abcd"}`, 2},
		"items":                {responsesPath, `{"model":"m","input":[{"role":"user","content":"abcd"},{"role":"user","content":[{"type":"input_text","text":"abcd"}]}]}`, 2},
		"outputs of tools":     {responsesPath, `{"model":"m","input":[{"type":"function_call_output","output":"abcd"},{"type":"computer_call_output","output":{"image_url":"x"}}]}`, 1},
		"a tool's result": {messagesPath, content(`[{"type":"tool_result","content":[{"type":"text","text":"abcd"}]},` +
			`{"type":"tool_result","content":"abcd"}]`), 2},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			usage := parse(t, f.post(t, tc.path, tc.body).body)["usage"].(map[string]any)
			reported := usage["prompt_tokens"]
			if tc.path != chatPath {
				reported = usage["input_tokens"]
			}
			if remembered := f.only(t).InputTokens; reported != float64(tc.want) || remembered != tc.want {
				t.Errorf("reported %v, remembered %d, want %d", reported, remembered, tc.want)
			}
		})
	}
}

func TestEmbeddings(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		input         string
		items, tokens int
	}{
		"a text":         {`"abcde"`, 1, 2},
		"texts":          {`["abcd","efgh","ij"]`, 3, 3},
		"an empty text":  {`""`, 1, 1},
		"tokens":         {`[1,2,3,4,5]`, 1, 5},
		"lists of them":  {`[[1,2,3],[4]]`, 2, 4},
		"a single token": {`[17]`, 1, 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			a := parse(t, f.post(t, "/v1/embeddings", `{"model":"e","dimensions":2,"input":`+tc.input+`}`).body)
			data := a["data"].([]any)
			if len(data) != tc.items {
				t.Errorf("%d embeddings, want %d", len(data), tc.items)
			}
			for i, d := range data {
				d := d.(map[string]any)
				if d["object"] != "embedding" || d["index"] != float64(i) || len(d["embedding"].([]any)) != 2 {
					t.Errorf("embedding %d is %v", i, d)
				}
			}
			delete(a, "data")
			want := map[string]any{"object": "list", "model": "e", "usage": map[string]any{
				"prompt_tokens": float64(tc.tokens), "total_tokens": float64(tc.tokens),
			}}
			if diff := cmp.Diff(want, a); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if r := f.only(t); r.InputTokens != tc.tokens || r.OutputTokens != 0 {
				t.Errorf("remembered %d and %d, want %d and 0", r.InputTokens, r.OutputTokens, tc.tokens)
			}
		})
	}
}

func TestEmbeddingsInBase64(t *testing.T) {
	t.Parallel()
	f := start(t)
	embed := func(format string) any {
		body := fmt.Sprintf(`{"model":"e","input":"abcd","encoding_format":%q}`, format)
		return parse(t, f.post(t, "/v1/embeddings", body, "x-demo-usage: none").body)["data"].([]any)[0].(map[string]any)["embedding"]
	}
	raw, err := base64.StdEncoding.DecodeString(embed("base64").(string))
	if err != nil {
		t.Fatal(err)
	}
	var got []any
	for ; len(raw) > 0; raw = raw[4:] {
		got = append(got, float64(math.Float32frombits(binary.LittleEndian.Uint32(raw))))
	}
	if diff := cmp.Diff(embed("float"), any(got)); diff != "" {
		t.Errorf("the two forms differ (-float +base64):\n%s", diff)
	}
}
