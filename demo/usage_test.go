package demo_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/demo"
)

// reported is all that an answer says of usage, later chunks over earlier ones.
func reported(t *testing.T, a answer) map[string]any {
	t.Helper()
	documents := []string{a.body}
	if strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") {
		documents = nil
		for _, e := range events(t, a.body) {
			if e.data != "[DONE]" {
				documents = append(documents, e.data)
			}
		}
	}
	all := map[string]any{}
	for _, d := range documents {
		top := parse(t, d)
		for _, name := range []string{"message", "response"} {
			if inner, holds := top[name].(map[string]any); holds {
				top = inner
			}
		}
		for _, name := range []string{"usage", "usageMetadata"} {
			if usage, holds := top[name].(map[string]any); holds {
				maps.Copy(all, usage)
			}
		}
	}
	return all
}

// A usageCase is a request of 5 tokens and what is to be said of its 3 of answer.
type usageCase struct {
	path, body string
	headers    []string
	want       map[string]any
	remembered [3]int // input, of it cached, output
}

func (tc usageCase) check(t *testing.T) {
	t.Helper()
	f := start(t)
	a := f.post(t, tc.path, tc.body, append(tc.headers, "x-demo-tokens: 3")...)
	got := reported(t, a)
	for name := range got {
		if _, asked := tc.want[name]; !asked {
			delete(got, name)
		}
	}
	if diff := cmp.Diff(tc.want, got); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
	r := f.only(t)
	if remembered := [3]int{r.InputTokens, r.CachedTokens, r.OutputTokens}; remembered != tc.remembered || r.Outcome != demo.Done {
		t.Errorf("remembered %v, %s, want %v", remembered, r.Outcome, tc.remembered)
	}
}

func TestEachProtocolAddsUpCachedAndReasoningInItsOwnWay(t *testing.T) {
	t.Parallel()
	both := []string{"x-demo-cached: 4", "x-demo-reasoning: 30"}
	cached := func(n float64) map[string]any { return map[string]any{"cached_tokens": n, "audio_tokens": 0.0} }
	reasoning := func(n float64) map[string]any {
		return map[string]any{"reasoning_tokens": n, "audio_tokens": 0.0, "accepted_prediction_tokens": 0.0, "rejected_prediction_tokens": 0.0}
	}
	openAI := func(output, cachedTokens, reasoningTokens float64) map[string]any {
		return map[string]any{
			"prompt_tokens": 5.0, "completion_tokens": output, "total_tokens": 5 + output,
			"prompt_tokens_details": cached(cachedTokens), "completion_tokens_details": reasoning(reasoningTokens),
		}
	}
	responses := func(output, reasoningTokens float64) map[string]any {
		return map[string]any{
			"input_tokens": 5.0, "input_tokens_details": map[string]any{"cached_tokens": 4.0, "cache_write_tokens": 0.0},
			"output_tokens": output, "output_tokens_details": map[string]any{"reasoning_tokens": reasoningTokens}, "total_tokens": 5 + output,
		}
	}
	gemini := func(output, thoughts, total float64) map[string]any {
		return map[string]any{
			"promptTokenCount": 5.0, "cachedContentTokenCount": 4.0, "candidatesTokenCount": output, "thoughtsTokenCount": thoughts,
			"totalTokenCount": total,
		}
	}
	anthropic := map[string]any{"input_tokens": 1.0, "cache_creation_input_tokens": 0.0, "cache_read_input_tokens": 4.0, "output_tokens": 33.0}
	cases := map[string]usageCase{
		"chat":            {chatPath, chatBody, both, openAI(33, 4, 30), [3]int{5, 4, 33}},
		"chat stream":     {chatPath, chatUsage, both, openAI(33, 4, 30), [3]int{5, 4, 33}},
		"chat, 2 choices": {chatPath, `{"n":2,` + chatBody[1:], both, openAI(66, 4, 60), [3]int{5, 4, 66}},
		"chat, a maximum": {chatPath, `{"max_tokens":32,` + chatBody[1:], both, openAI(32, 4, 30), [3]int{5, 4, 32}},
		"thought alone":   {chatPath, `{"max_tokens":9,` + chatUsage[1:], both, openAI(9, 4, 9), [3]int{5, 4, 9}},
		"all from the cache": {
			chatPath, chatBody,
			[]string{"x-demo-cached: 1000"},
			openAI(3, 5, 0),
			[3]int{5, 5, 3},
		},
		"unreported":         {chatPath, chatBody, append(both, "x-demo-usage: none"), map[string]any{}, [3]int{5, 4, 33}},
		"messages":           {messagesPath, messagesBody, both, anthropic, [3]int{5, 4, 33}},
		"messages stream":    {messagesPath, messagesSSE, both, anthropic, [3]int{5, 4, 33}},
		"completions":        {completionsPath, completionsBody, both, openAI(33, 4, 30), [3]int{5, 4, 33}},
		"completions stream": {completionsPath, completionsUsage, both, openAI(33, 4, 30), [3]int{5, 4, 33}},
		"responses":          {responsesPath, responsesBody, both, responses(33, 30), [3]int{5, 4, 33}},
		"responses stream":   {responsesPath, responsesSSE, both, responses(33, 30), [3]int{5, 4, 33}},
		"responses, a maximum": {
			responsesPath, `{"max_output_tokens":31,` + responsesSSE[1:], both, responses(31, 30), [3]int{5, 4, 31},
		},
		"gemini":        {geminiPath, geminiBody, both, gemini(3, 30, 38), [3]int{5, 4, 33}},
		"gemini stream": {geminiSSEPath, geminiBody, both, gemini(3, 30, 38), [3]int{5, 4, 33}},
		"gemini, 2 candidates": {
			geminiSSEPath, `{"generationConfig":{"candidateCount":2},` + geminiBody[1:], both, gemini(6, 60, 71), [3]int{5, 4, 66},
		},
		"embeddings know neither": {
			"/v1/embeddings", `{"model":"e","input":"Say hello, please"}`, both,
			map[string]any{"prompt_tokens": 5.0, "total_tokens": 5.0},
			[3]int{5, 0, 0},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.check(t)
		})
	}
}

func TestThoughtOfACutStreamIsNotCounted(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.do(t, "POST", chatPath, chatUsage, "x-demo-reasoning: 30", "x-demo-abort: 2")
	if r := f.only(t); r.OutputTokens != 2 || r.Outcome != demo.Aborted {
		t.Errorf("remembered %d tokens, %s, want the 2 that came", r.OutputTokens, r.Outcome)
	}
}

func TestCountingCostsNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ path, body, model, want string }{
		"messages": {messagesPath + "/count_tokens", messagesBody, "claude", `{"input_tokens":5}`},
		"gemini": {
			"/v1beta/models/gemini-2.5-flash:countTokens", geminiBody, "gemini-2.5-flash",
			`{"totalTokens":5,"promptTokensDetails":[{"modality":"TEXT","tokenCount":5}]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			if a := f.post(t, tc.path, tc.body); a.body != tc.want {
				t.Errorf("got %s, want %s", a.body, tc.want)
			}
			if r := f.only(t); r.Model != tc.model || r.InputTokens+r.OutputTokens != 0 {
				t.Errorf("remembered %s with %d and %d tokens", r.Model, r.InputTokens, r.OutputTokens)
			}
		})
	}
}

func TestPathsBelowAPI(t *testing.T) {
	t.Parallel()
	f := start(t)
	for path, body := range map[string]string{
		chatPath: chatBody, messagesPath: messagesBody, completionsPath: completionsBody, responsesPath: responsesBody, geminiPath: geminiBody, geminiSSEPath: geminiBody,
		"/v1/embeddings": `{"model":"e","input":"a"}`,
	} {
		a := f.post(t, "/api"+path, body)
		if a.status != 200 || !strings.Contains(a.body, `"usage`) {
			t.Errorf("%s: got %d %s", path, a.status, a.body)
		}
	}
	if a := f.post(t, "/api", ""); !strings.Contains(a.body, "demo.reply") {
		t.Errorf("/api itself: %s", a.body)
	}
}
