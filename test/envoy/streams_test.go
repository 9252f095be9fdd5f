package envoy_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

const tokensPerDay = 1_000_000

// daily has limits on days only, so that all that a test does is in one window.
func daily(t *testing.T) *system {
	t.Helper()
	s := start(t, manifests(gateway,
		tier("daily", "{metric: Requests, per: Day, max: 1000}", "{metric: Tokens, per: Day, max: 1000000}"),
		holder("streams", "daily", keyStreams), holder("beside", "daily", keyBeside)))
	clearOf(t, 24*time.Hour)
	return s
}

const (
	keyStreams = "key-streams"
	keyBeside  = "key-beside" // has counters of its own
)

// paragraph is long enough for the text to outweigh the JSON around it.
var paragraph = strings.Repeat("Every word of this question is here to be counted. ", 80)

func TestAStreamThatTheClientCutsCostsAboutWhatWasSent(t *testing.T) {
	t.Parallel()
	s := daily(t)
	tests := map[string]struct {
		build          func(key string, p prompt, header ...string) request
		inputEstimated string
	}{
		"OpenAI":    {chat, "true"},
		"Anthropic": {messages, "false"},
	}
	var spent int64
	for name, tc := range tests {
		model := "cut-" + name
		r := tc.build(keyStreams, prompt{model: model, content: paragraph, maxTokens: 5000, stream: true, usage: true},
			"x-demo-tokens: 5000", "x-demo-token-delay: 2ms")
		st := s.open(t, r)
		if st.status != http.StatusOK {
			t.Fatalf("%s: status %d", name, st.status)
		}
		st.awaitTokens(t, 200)
		came := st.tokens.Load()
		st.cut()
		_, settled := s.settlement(t, model)
		sent := s.upstream(t, model)
		if sent.Outcome != "client_gone" || sent.OutputTokens >= 5000 {
			t.Fatalf("%s: the stream was not cut: %+v", name, sent)
		}
		input, output := settled.number(t, "inputTokens"), settled.number(t, "outputTokens")
		within(t, name+": output", output, came, sent.OutputTokens)
		within(t, name+": input and output", input+output, sent.InputTokens+came, sent.InputTokens+sent.OutputTokens)
		if settled["outputEstimated"] != "true" || settled["inputEstimated"] != tc.inputEstimated {
			t.Errorf("%s: marked as %v", name, settled)
		}
		if tc.inputEstimated == "false" && input != sent.InputTokens {
			t.Errorf("%s: input %d, want exactly %d", name, input, sent.InputTokens)
		}
		spent += input + output
		s.checkTokensSpent(t, "after-"+model, &spent)
	}
}

// near says that a number is within 25 % of what it should be.
func near(t *testing.T, what string, got, want int64) {
	t.Helper()
	within(t, what, got, want, want)
}

// within is near where it should be from one number to another: Envoy has seen of a stream that is cut at least what the client got
// before, and at most what the provider sent, which on a busy machine goes on for a while.
func within(t *testing.T, what string, got, least, most int64) {
	t.Helper()
	if float64(got) < 0.75*float64(least) || float64(got) > 1.25*float64(most) {
		t.Errorf("%s: %d tokens, want %d to %d ± 25 %%", what, got, least, most)
	}
}

// checkTokensSpent sends one more request and demands that its headers tell what was spent before, and its own reservation
// beside: that the rest was given back. It adds what it spent itself.
func (s *system) checkTokensSpent(t *testing.T, model string, spent *int64) {
	t.Helper()
	a := s.pass(t, chat(keyStreams, prompt{model: model, maxTokens: 1}))
	reserved, settled := s.settlement(t, model)
	own := reserved.number(t, "inputTokens") + reserved.number(t, "outputTokens")
	if got := a.number(t, "x-ratelimit-remaining-tokens"); got != tokensPerDay-*spent-own {
		t.Errorf("%s: %d tokens remain, want %d - %d spent - %d reserved", model, got, tokensPerDay, *spent, own)
	}
	*spent += settled.number(t, "inputTokens") + settled.number(t, "outputTokens")
}

func TestAStreamCountsAsOneRequest(t *testing.T) {
	t.Parallel()
	s := daily(t)
	for i, r := range []request{
		chat(keyStreams, prompt{stream: true}, "x-demo-tokens: 300"),
		messages(keyStreams, prompt{stream: true, maxTokens: 1000}, "x-demo-tokens: 300"),
		chat(keyStreams, prompt{}),
	} {
		st := s.open(t, r)
		body, err := st.end(t)
		if err != nil || st.status != http.StatusOK {
			t.Fatalf("status %d, %v: %s", st.status, err, body)
		}
		if used := numberIn(t, st.header, "x-ratelimit-used"); used != int64(i+1) {
			t.Errorf("request %d: %d used, want %[1]d", i+1, used)
		}
	}
}

// What the provider counts is what is charged, to the token, whatever was reserved.
func TestReportedUsageIsCharged(t *testing.T) {
	t.Parallel()
	s := daily(t)
	tests := map[string]request{
		"chat-json":       chat(keyStreams, prompt{model: "chat-json", content: paragraph}),
		"chat-stream":     chat(keyStreams, prompt{model: "chat-stream", content: paragraph, stream: true, usage: true}, "x-demo-tokens: 77"),
		"messages-json":   messages(keyStreams, prompt{model: "messages-json", content: paragraph}),
		"messages-stream": messages(keyStreams, prompt{model: "messages-stream", stream: true, maxTokens: 2000}, "x-demo-tokens: 1234"),
		"embeddings":      {path: embeddingPath, key: keyStreams, body: jsonOf(map[string]any{"model": "embeddings", "input": paragraph})},
	}
	var spent int64
	for model, r := range tests {
		s.pass(t, r)
		_, settled := s.settlement(t, model)
		sent := s.upstream(t, model)
		input, output := settled.number(t, "inputTokens"), settled.number(t, "outputTokens")
		if input != sent.InputTokens || output != sent.OutputTokens || input == 0 {
			t.Errorf("%s: charged %d + %d, want %d + %d", model, input, output, sent.InputTokens, sent.OutputTokens)
		}
		if settled["inputEstimated"] != "false" || settled["outputEstimated"] != "false" {
			t.Errorf("%s: marked as %v", model, settled)
		}
		spent += input + output
	}
	s.checkTokensSpent(t, "after-reports", &spent)
}

func TestMissingUsageIsEstimatedAndMarked(t *testing.T) {
	t.Parallel()
	s := daily(t)
	none := "x-demo-usage: none"
	tests := map[string]request{
		"chat-json":       chat(keyStreams, prompt{model: "chat-json", content: paragraph}, none, "x-demo-tokens: 400"),
		"chat-stream":     chat(keyStreams, prompt{model: "chat-stream", content: paragraph, stream: true, usage: true}, none, "x-demo-tokens: 400"),
		"chat-not-asked":  chat(keyStreams, prompt{model: "chat-not-asked", content: paragraph, stream: true}, "x-demo-tokens: 400"),
		"messages-json":   messages(keyStreams, prompt{model: "messages-json", content: paragraph, maxTokens: 1000}, none, "x-demo-tokens: 400"),
		"messages-stream": messages(keyStreams, prompt{model: "messages-stream", content: paragraph, maxTokens: 1000, stream: true}, none, "x-demo-tokens: 400"),
	}
	var spent int64
	for model, r := range tests {
		s.pass(t, r)
		_, settled := s.settlement(t, model)
		sent := s.upstream(t, model)
		if sent.OutputTokens != 400 {
			t.Fatalf("%s: the demo upstream sent %d tokens, want 400", model, sent.OutputTokens)
		}
		if settled["inputEstimated"] != "true" || settled["outputEstimated"] != "true" {
			t.Errorf("%s: marked as %v", model, settled)
		}
		input, output := settled.number(t, "inputTokens"), settled.number(t, "outputTokens")
		near(t, model+": input", input, sent.InputTokens)
		near(t, model+": output", output, sent.OutputTokens)
		spent += input + output
	}
	s.checkTokensSpent(t, "after-estimates", &spent)
}

// changing is what differs between two answers of the demo upstream to the same request.
var changing = regexp.MustCompile(`(chatcmpl-|msg_|req_)\d{24}|"created":\d+`)

func TestAnswersPassByteForByte(t *testing.T) {
	t.Parallel()
	s := daily(t)
	tests := map[string]request{
		"chat":            chat(keyStreams, prompt{}),
		"chat stream":     chat(keyStreams, prompt{stream: true, usage: true}),
		"messages":        messages(keyStreams, prompt{}),
		"messages stream": messages(keyStreams, prompt{stream: true}),
		"embeddings":      {path: embeddingPath, key: keyStreams, body: `{"model":"e","input":["one","two"]}`},
		"fixed reply":     {path: imagesPath, key: keyStreams, body: `{"prompt":"a fox"}`},
		"provider error":  chat(keyStreams, prompt{}, "x-demo-status: 418"),
	}
	for name, r := range tests {
		through := s.send(t, r)
		direct, err := fetch(t.Context(), "http://"+s.demo, r)
		if err != nil {
			t.Fatal(err)
		}
		if len(direct.body) == 0 || changing.ReplaceAllString(through.body, "#") != changing.ReplaceAllString(direct.body, "#") {
			t.Errorf("%s: through Envoy:\n%s\ndirect:\n%s", name, through.body, direct.body)
		}
		if got, want := through.header.Get("Content-Type"), direct.header.Get("Content-Type"); got != want || through.status != direct.status {
			t.Errorf("%s: %d of type %q, want %d of type %q", name, through.status, got, direct.status, want)
		}
		for header := range through.header {
			if strings.HasPrefix(strings.ToLower(header), "x-tk-") || strings.HasPrefix(strings.ToLower(header), "x-envoy-") {
				t.Errorf("%s: header %s reaches the client", name, header)
			}
		}
	}
}
