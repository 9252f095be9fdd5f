package ratelimit_test

import (
	"fmt"
	"maps"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// Where nobody reports, what a response cost is estimated by what it says it is, not by what was asked for. How many tokens
// that are is measured elsewhere; here they tell by their size as what they were taken.
func TestASilentProvidersAnswerIsTakenForWhatItSaysItIs(t *testing.T) {
	t.Parallel()
	const size = 12_000
	taken := func(output int64) string {
		switch {
		case output == 0:
			return "no text"
		case output == size/4:
			return "text"
		case output > size/5:
			return "JSON"
		default:
			return "events"
		}
	}
	type came struct {
		asked bool // for a stream
		kind  string
	}
	usual := map[came]string{
		{false, "application/json; charset=utf-8"}: "JSON",
		{true, "application/json"}:                 "JSON",
		{false, "Text/Event-Stream; x=1"}:          "events",
		{true, "text/event-stream"}:                "events",
		{false, "text/plain"}:                      "text",
		{false, "audio/mpeg"}:                      "text", // Text was asked for, and comes as something.
		{false, ""}:                                "JSON",
		{true, ""}:                                 "events",
	}
	for _, p := range descriptor.Protocols {
		want := maps.Clone(usual)
		reserved := int64(25)
		switch p { //nolint:exhaustive // The others are usual.
		case descriptor.ProtocolOpaque, descriptor.ProtocolOpenAIEmbeddings, descriptor.ProtocolOpenAIImages:
			for c := range want {
				want[c] = "no text"
			}
		case descriptor.ProtocolJSON: // such as speech
			want[came{false, "audio/mpeg"}] = "no text"
		case descriptor.ProtocolGemini: // whose stream may be one JSON array
			want[came{true, "application/json"}] = "events"
		}
		if p == descriptor.ProtocolOpaque || p == descriptor.ProtocolOpenAITranscriptions {
			reserved = 0 // Nobody looks into the request.
		}
		got := map[came]string{}
		for c := range usual {
			s := serve(t, oneTier(allTokens))
			request := with(outputOf(200), func(r *descriptor.Reserve) { r.Protocol, r.InputBytes, r.Stream = p, 100, c.asked })
			s.end(t, s.pass(t, request), descriptor.Settle{Code: http.StatusOK, ResponseType: c.kind, OutputBytes: size})
			used := s.used(t, request)
			got[c] = taken(used["Key OutputTokens per Hour"])
			if input := used["Key InputTokens per Hour"]; input != reserved {
				t.Errorf("%s, %+v: %d tokens of input are charged, want %d", p, c, input, reserved)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: what an answer is taken for (-want +got):\n%s", p, diff)
		}
	}
}

// A report is the truth in every protocol, and an answer that failed costs nothing in any.
func TestInEveryProtocolAReportIsChargedAndAFailureIsNot(t *testing.T) {
	t.Parallel()
	for _, p := range descriptor.Protocols {
		s := serve(t, oneTier(allTokens))
		request := with(outputOf(200), func(r *descriptor.Reserve) { r.Protocol, r.InputBytes = p, 100 })
		s.end(t, s.pass(t, request), descriptor.Settle{
			Code: http.StatusOK, OutputBytes: 9000, Reported: descriptor.Usage{Input: 80, Output: 50}, Partial: descriptor.Usage{Input: 70, Output: 40},
		})
		s.end(t, s.pass(t, request), descriptor.Settle{Code: http.StatusBadGateway, OutputBytes: 9000, ResponseType: "application/json"})
		if diff := cmp.Diff(charged(2, 80, 50), s.used(t, request)); diff != "" {
			t.Errorf("%s: counters (-want +got):\n%s", p, diff)
		}
	}
}

// What a cut stream had reported holds. Only of Anthropic's can more have come than it says.
func TestAPartialReportIsChargedOfAStreamThatIsCut(t *testing.T) {
	t.Parallel()
	for _, p := range descriptor.Protocols {
		s := serve(t, oneTier(allTokens))
		request := with(outputOf(200), func(r *descriptor.Reserve) { r.Protocol, r.InputBytes, r.Stream = p, 100, true })
		s.end(t, s.pass(t, request), descriptor.Settle{
			Code: http.StatusOK, OutputBytes: 450 + 119*60, ResponseType: "text/event-stream", Partial: descriptor.Usage{Input: 70, Output: 40},
		})
		input, output := int64(70), int64(40)
		if p == descriptor.ProtocolOpaque {
			input, output = 0, 0
		}
		if p == descriptor.ProtocolAnthropic {
			output = 60 // 450 bytes, and 119 for each token
		}
		if diff := cmp.Diff(charged(1, input, output), s.used(t, request)); diff != "" {
			t.Errorf("%s: counters (-want +got):\n%s", p, diff)
		}
	}
}

func TestACachedTokenCountsByItsModelsPercentage(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		percent             string
		input, cached, want int64
	}{
		"nobody says":             {"{}", 1000, 400, 1000},
		"as another":              {"{cachedInputPercent: 100}", 1000, 400, 1000},
		"a half":                  {"{cachedInputPercent: 50}", 1000, 400, 800},
		"a tenth":                 {"{cachedInputPercent: 10}", 1000, 1000, 100},
		"nothing":                 {"{cachedInputPercent: 0}", 1000, 400, 600},
		"nothing, and all is":     {"{cachedInputPercent: 0}", 1000, 1000, 0},
		"a part is rounded up":    {"{cachedInputPercent: 50}", 1000, 401, 800},
		"one of a hundredth":      {"{cachedInputPercent: 1}", 10, 1, 10},
		"none is cached":          {"{cachedInputPercent: 10}", 1000, 0, 1000},
		"more than there is":      {"{cachedInputPercent: 10}", 1000, 5000, 100},
		"as much as can be":       {"{cachedInputPercent: 99}", 1<<53 - 1, 1<<53 - 1, 8917127262193582},
		"the default is the same": {"{defaultOutputTokens: 5}", 1000, 400, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier(rates("Requests Hour 100", "Tokens Hour 1000000", "InputTokens Hour 1000000", "OutputTokens Hour 1000000"))+
				"\nmodels: {gpt: {models: [gpt-5], tokens: "+tc.percent+"}}")
			s.end(t, s.pass(t, chat("sk-alice")), descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: tc.input, Cached: tc.cached, Output: 7}})
			if diff := cmp.Diff(charged(1, tc.want, 7), s.used(t, chat("sk-alice"))); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

// A reported number is a provider's, and anything may be a provider.
func TestNoReportMakesAChargeNegative(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		percent := rapid.Int64Range(0, 100).Draw(rt, "percent")
		s := serve(t, oneTier(allTokens)+fmt.Sprintf("\nmodels: {gpt: {models: [gpt-5], tokens: {cachedInputPercent: %d}}}", percent))
		request := with(outputOf(200), func(r *descriptor.Reserve) {
			r.Protocol, r.Stream = rapid.SampledFrom(descriptor.Protocols).Draw(rt, "protocol"), rapid.Bool().Draw(rt, "stream")
		})
		tokens := rapid.Int64Range(0, 1<<53-1)
		usage := func(name string) descriptor.Usage {
			return descriptor.Usage{Input: tokens.Draw(rt, name+" input"), Cached: tokens.Draw(rt, name+" cached"), Output: tokens.Draw(rt, name+" output")}
		}
		s.end(t, s.pass(t, request), descriptor.Settle{
			Code: rapid.SampledFrom([]int64{0, 200, 500}).Draw(rt, "code"), OutputBytes: tokens.Draw(rt, "bytes"), Reported: usage("reported"), Partial: usage("partial"),
			ResponseType: rapid.SampledFrom([]string{"", "application/json", "text/event-stream", "image/png"}).Draw(rt, "type"),
		})
		for name, n := range s.used(t, request) {
			if n < 0 {
				rt.Fatalf("%s is %d", name, n)
			}
		}
	})
}

// Limits by kind of token reserve, settle and refuse on their own.
func TestInputAndOutputAreLimitedApart(t *testing.T) {
	t.Parallel()
	for metric, request := range map[string]*descriptor.Reserve{
		"InputTokens":  with(outputOf(1000), func(r *descriptor.Reserve) { r.InputBytes = 160 }),
		"OutputTokens": with(outputOf(40), func(r *descriptor.Reserve) { r.InputBytes = 200 }),
	} {
		t.Run(metric, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier(rates(metric+" Minute 100", "Tokens Day 100000")))
			counts := func() int64 { return s.used(t, request)["Key "+metric+" per Minute"] }
			first := s.pass(t, request)
			s.pass(t, request)
			if got := counts(); got != 80 {
				t.Errorf("two requests reserve %d, want 80", got)
			}
			denied := s.refuse(t, request, http.StatusTooManyRequests)
			if got := errorOf(t, denied).Code; got != "rate_limit_exceeded" {
				t.Errorf("code is %s", got)
			}
			// The headers know tokens and requests only: they go on to speak of the day.
			headers := headersOf(t, denied)
			if headers["Retry-After"] != "12" || headers["x-ratelimit-limit-tokens"] != "100000" || headers["x-ratelimit-limit-requests"] != "" {
				t.Errorf("the headers of the denial are %v", headers)
			}
			s.end(t, first, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: 11, Output: 11}})
			if got := counts(); got != 51 {
				t.Errorf("after the first is settled %d are used, want 51", got)
			}
			s.pass(t, request)
		})
	}
}

// A Response that is ordered in the background is answered at once, without a report. What it brings out nobody sees here, so
// what was reserved for it is not given back: neither is more than that taken, however large a maximum the client names.
func TestAnOrderInTheBackgroundKeepsWhatItReserved(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		maximum, bytes, output int64
	}{
		"a short answer":            {200, 900, 200},
		"an answer with more in it": {200, 690 + 4*300, 300},
		"a maximum beyond limits":   {1 << 40, 900, 1_000_000},
	} {
		s := serve(t, oneTier(allTokens))
		request := with(outputOf(tc.maximum), func(r *descriptor.Reserve) { r.Protocol = descriptor.ProtocolOpenAIResponses })
		s.end(t, s.pass(t, request), descriptor.Settle{Code: http.StatusOK, ResponseType: "application/json", OutputBytes: tc.bytes})
		if got := s.used(t, request)["Key OutputTokens per Hour"]; got != tc.output {
			t.Errorf("%s: %d tokens of output are charged, want %d", name, got, tc.output)
		}
	}
}

// Pictures whose tokens nobody reports cost what the operator says for the model, and nothing where he says nothing.
func TestASilentPictureCostsWhatItsModelLimitSays(t *testing.T) {
	t.Parallel()
	for model, output := range map[string]int64{"painter": 4160, "other": 0} {
		s := serve(t, oneTier(allTokens)+"\nmodels: {painter: {models: [painter], tokens: {defaultOutputTokens: 4160}}}")
		request := with(chat("sk-alice"), func(r *descriptor.Reserve) {
			r.Protocol, r.Model, r.InputBytes, r.MaxOutput = descriptor.ProtocolOpenAIImages, model, 100, 0
		})
		s.end(t, s.pass(t, request), descriptor.Settle{Code: http.StatusOK, ResponseType: "application/json", OutputBytes: 2 << 20})
		if got := s.used(t, request)["Key OutputTokens per Hour"]; got != output {
			t.Errorf("%s: %d tokens of output are charged, want %d", model, got, output)
		}
	}
}
