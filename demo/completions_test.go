package demo_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	completionsPath  = "/v1/completions"
	completionsBody  = `{"model":"gpt-3.5-turbo-instruct","prompt":"Say hello, please"}`
	completionsUsage = `{"model":"gpt-3.5-turbo-instruct","stream":true,"stream_options":{"include_usage":true},"prompt":"Say hello, please"}`
)

func TestCompletionOnTheWire(t *testing.T) {
	t.Parallel()
	const (
		object = `{"id":"cmpl-000000000000000000000001","object":"text_completion","created":1772366400,"model":"gpt-3.5-turbo-instruct","choices":`
		usage  = `,"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},` +
			`"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`
	)
	chunks := func(between, last string) string {
		return "data: " + object + `[{"text":"the","index":0,"logprobs":null,"finish_reason":null}]` + between + "}\n\n" +
			"data: " + object + `[{"text":" old","index":0,"logprobs":null,"finish_reason":null}]` + between + "}\n\n" +
			"data: " + object + `[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}]` + between + "}\n\n" + last +
			"data: [DONE]\n\n"
	}
	for name, tc := range map[string]struct{ body, want string }{
		"json":                 {completionsBody, object + `[{"text":"the old","index":0,"logprobs":null,"finish_reason":"length"}]` + usage + `}`},
		"stream":               {strings.Replace(completionsUsage, `"include_usage":true`, "", 1), chunks("", "")},
		"stream that tells it": {completionsUsage, chunks(`,"usage":null`, "data: "+object+"[]"+usage+"}\n\n")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := start(t).post(t, completionsPath, `{"max_tokens":2,`+tc.body[1:])
			if diff := cmp.Diff(tc.want, a.body); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEachPromptHasItsChoices(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		prompt         string
		choices, input int
	}{
		"a text": {`"abcde"`, 2, 2},
		"texts":  {`["abcd","abcd","abcd"]`, 6, 3},
		"tokens": {`[1,2,3,4]`, 2, 4},
		"lists":  {`[[1,2],[3]]`, 4, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			a := f.post(t, completionsPath, `{"model":"m","n":2,"prompt":`+tc.prompt+`}`, "x-demo-tokens: 3")
			var got struct{ Choices []struct{ Index int } }
			if err := json.Unmarshal([]byte(a.body), &got); err != nil {
				t.Fatal(err)
			}
			for i, c := range got.Choices {
				if c.Index != i {
					t.Errorf("choice %d has index %d", i, c.Index)
				}
			}
			if r := f.only(t); len(got.Choices) != tc.choices || r.InputTokens != tc.input || r.OutputTokens != 3*tc.choices {
				t.Errorf("%d choices, remembered %d and %d", len(got.Choices), r.InputTokens, r.OutputTokens)
			}
		})
	}
}
