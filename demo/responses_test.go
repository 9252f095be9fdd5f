package demo_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/demo"
)

const (
	responsesPath = "/v1/responses"
	responsesBody = `{"model":"gpt-4.1","input":"Say hello, please"}`
	responsesSSE  = `{"model":"gpt-4.1","stream":true,"input":"Say hello, please"}`
)

// responseWith is an answer on the wire, with what changes while it streams.
func responseWith(status, details, limit, items, usage string) string {
	return `{"id":"resp_000000000000000000000001","object":"response","created_at":1772366400,"status":"` + status + `","background":false,` +
		`"error":null,"incomplete_details":` + details + `,"instructions":null,"max_output_tokens":` + limit + `,"model":"gpt-4.1",` +
		`"output":[` + items + `],"parallel_tool_calls":true,"previous_response_id":null,"reasoning":{"effort":null,"summary":null},` +
		`"service_tier":"default","store":true,"temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],` +
		`"top_p":1.0,"truncation":"disabled","user":null,"metadata":{}` + usage + `}`
}

func TestResponseOnTheWire(t *testing.T) {
	t.Parallel()
	a := start(t).post(t, responsesPath, responsesBody, "x-demo-tokens: 3")
	want := responseWith("completed", "null", "null",
		`{"id":"msg_000000000000000000000001","type":"message","status":"completed","role":"assistant",`+
			`"content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"the old man"}]}`,
		`,"usage":{"input_tokens":5,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":3,`+
			`"output_tokens_details":{"reasoning_tokens":0},"total_tokens":8}`)
	if diff := cmp.Diff(want, a.body); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}

func TestResponseStreamOnTheWire(t *testing.T) {
	t.Parallel()
	f := start(t)
	a := f.post(t, responsesPath, `{"max_output_tokens":2,`+responsesSSE[1:])
	const (
		empty  = `{"type":"output_text","annotations":[],"logprobs":[],"text":""}`
		full   = `{"type":"output_text","annotations":[],"logprobs":[],"text":"the old"}`
		inItem = `"item_id":"msg_000000000000000000000001","output_index":0,"content_index":0,`
		usage  = `,"usage":{"input_tokens":5,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":2,` +
			`"output_tokens_details":{"reasoning_tokens":0},"total_tokens":7}`
	)
	item := func(status, part string) string {
		return `{"id":"msg_000000000000000000000001","type":"message","status":"` + status + `","role":"assistant","content":[` + part + `]}`
	}
	begun := `"response":` + responseWith("in_progress", "null", "2", "", "")
	var want strings.Builder
	for i, e := range [][2]string{
		{"response.created", begun},
		{"response.in_progress", begun},
		{"response.output_item.added", `"output_index":0,"item":` + item("in_progress", "")},
		{"response.content_part.added", inItem + `"part":` + empty},
		{"response.output_text.delta", inItem + `"logprobs":[],"delta":"the"`},
		{"response.output_text.delta", inItem + `"logprobs":[],"delta":" old"`},
		{"response.output_text.done", inItem + `"logprobs":[],"text":"the old"`},
		{"response.content_part.done", inItem + `"part":` + full},
		{"response.output_item.done", `"output_index":0,"item":` + item("incomplete", full)},
		{"response.incomplete", `"response":` + responseWith("incomplete", `{"reason":"max_output_tokens"}`, "2", item("incomplete", full), usage)},
	} {
		fmt.Fprintf(&want, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d,%s}\n\n", e[0], e[0], i, e[1])
	}
	if diff := cmp.Diff(want.String(), a.body); diff != "" {
		t.Errorf("stream (-want +got):\n%s", diff)
	}
	if r := f.only(t); r.OutputTokens != 2 || r.InputTokens != 5 || !r.Stream || r.Model != "gpt-4.1" || r.Outcome != demo.Done {
		t.Errorf("remembered %+v", r)
	}
}

func TestAWholeResponseStreamEndsCompleted(t *testing.T) {
	t.Parallel()
	all := events(t, start(t).post(t, responsesPath, responsesSSE).body)
	if last := all[len(all)-1]; last.name != "response.completed" || len(all) != 8+32 {
		t.Errorf("%d events, the last is %s", len(all), last.name)
	}
}
