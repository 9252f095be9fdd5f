package demo_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/demo"
)

const (
	messagesPath = "/v1/messages"
	messagesBody = `{"model":"claude","max_tokens":100,"messages":[{"role":"user","content":"Say hello, please"}]}`
	messagesSSE  = `{"model":"claude","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"Say hello, please"}]}`
)

func TestMessageOnTheWire(t *testing.T) {
	t.Parallel()
	a := start(t).post(t, messagesPath, messagesBody, "x-demo-tokens: 3")
	const want = `{"id":"msg_000000000000000000000001","type":"message","role":"assistant","model":"claude",` +
		`"content":[{"type":"text","text":"the old man"}],"stop_reason":"end_turn","stop_sequence":null,` +
		`"usage":{"input_tokens":5,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":3,"service_tier":"standard"}}`
	if diff := cmp.Diff(want, a.body); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}

func TestMessageStreamOnTheWire(t *testing.T) {
	t.Parallel()
	f := start(t)
	a := f.post(t, messagesPath, strings.Replace(messagesSSE, "100", "2", 1))
	const want = `event: message_start
data: {"type":"message_start","message":{"id":"msg_000000000000000000000001","type":"message","role":"assistant","model":"claude","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":5,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1,"service_tier":"standard"}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type":"ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"the"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" old"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"max_tokens","stop_sequence":null},"usage":{"output_tokens":2}}

event: message_stop
data: {"type":"message_stop"}

`
	if diff := cmp.Diff(want, a.body); diff != "" {
		t.Errorf("stream (-want +got):\n%s", diff)
	}
	for _, e := range events(t, a.body) {
		if got := parse(t, e.data)["type"]; got != e.name {
			t.Errorf("event %q says its type is %q", e.name, got)
		}
	}
	if r := f.only(t); r.OutputTokens != 2 || r.InputTokens != 5 || !r.Stream || r.Outcome != demo.Done {
		t.Errorf("remembered %d, %d, stream %t, %s", r.InputTokens, r.OutputTokens, r.Stream, r.Outcome)
	}
}

func TestMessagesWithoutUsage(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"json": messagesBody, "stream": messagesSSE} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			if a := f.post(t, messagesPath, body, "x-demo-usage: none"); strings.Contains(a.body, "usage") || a.status != 200 {
				t.Errorf("got %d %s", a.status, a.body)
			}
			if r := f.only(t); r.OutputTokens != 32 || r.InputTokens != 5 {
				t.Errorf("remembered %d and %d, want 5 and 32: they were used all the same", r.InputTokens, r.OutputTokens)
			}
		})
	}
}
