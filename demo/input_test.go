package demo_test

import "testing"

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
