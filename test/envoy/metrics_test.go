package envoy_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// metrics is all that is measured, as it is told.
func (s *system) metrics(t *testing.T) string {
	t.Helper()
	a, err := fetch(t.Context(), strings.TrimSuffix(s.Says(t, `Metrics: (\S+)`), "/metrics"), request{method: http.MethodGet, path: "/metrics"})
	if err != nil {
		t.Fatal(err)
	}
	return a.body
}

// metric reads one sample; false if there is none.
func (s *system) metric(t *testing.T, sample string) (float64, bool) {
	t.Helper()
	for line := range strings.Lines(s.metrics(t)) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), sample+" "); found {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n, true
		}
	}
	return 0, false
}

// Requests of which little is text are overestimated at first, and less and less so.
func TestEstimatesOfAModelsInputBecomeBetter(t *testing.T) {
	t.Parallel()
	const model = `
apiVersion: tierkeeper.io/v1alpha1
kind: ModelLimit
metadata: {name: sparse}
spec: {models: [sparse]}
`
	s := start(t, manifests(gateway, model, tier("daily", "{metric: Tokens, per: Day, max: 1000000}"), holder("streams", "daily", keyStreams)))
	clearOf(t, 24*time.Hour)
	// To the demo upstream the name of a field is no text, so of such a body an eighth of the bytes are tokens.
	r := chat(keyStreams, prompt{model: "sparse", content: paragraph})
	r.body = strings.Replace(r.body, "{", `{"metadata":{"note":"`+paragraph+`"},`, 1)
	for range 30 {
		s.pass(t, r)
	}
	eventually(t, soon, "all requests are settled", func() bool {
		n, _ := s.metric(t, `tierkeeper_input_estimate_ratio_count`)
		return n == 30
	})
	all := s.reservations("sparse")
	first, last := all[0].number(t, "inputTokens"), all[len(all)-1].number(t, "inputTokens")
	truth := s.upstream(t, "sparse").InputTokens
	if first < truth*9/5 || last > truth*5/4 || last < truth {
		t.Errorf("reserved %d at first and %d at last, want twice %d and then hardly more than it", first, last, truth)
	}
	estimated, _ := s.metric(t, `tierkeeper_estimated_input_tokens_total{model="sparse"}`)
	reported, _ := s.metric(t, `tierkeeper_reported_input_tokens_total{model="sparse"}`)
	if reported != float64(30*truth) || estimated <= reported {
		t.Errorf("%v tokens are reported and %v were estimated, want 30 x %d and more", reported, estimated, truth)
	}
	if ratio, found := s.metric(t, `tierkeeper_input_tokens_per_byte{model="sparse"}`); !found || ratio > 0.16 || ratio < 0.12 {
		t.Errorf("a byte is taken for %v tokens, want about an eighth", ratio)
	}
}

// Each kind of token has limits of its own: what is reserved and what is settled counts against the right one.
func TestInputAndOutputTokensAreLimitedApart(t *testing.T) {
	t.Parallel()
	s := start(t, manifests(gateway,
		tier("reader", "{metric: InputTokens, per: Day, max: 1500, exceeded: PaymentRequired}", "{metric: OutputTokens, per: Day, max: 100000}"),
		tier("writer", "{metric: InputTokens, per: Day, max: 100000}", "{metric: OutputTokens, per: Day, max: 100, exceeded: Forbidden}"),
		holder("reader", "reader", "key-reader"), holder("writer", "writer", "key-writer")))
	clearOf(t, 24*time.Hour)
	for _, tc := range []struct {
		key    string
		prompt prompt
		status int
	}{
		{"key-reader", prompt{model: "read", content: paragraph, maxTokens: 20_000}, http.StatusPaymentRequired}, // 1,020 tokens of input each
		{"key-writer", prompt{model: "written", content: paragraph, maxTokens: 64}, http.StatusForbidden},        // 64 tokens of output each
	} {
		s.pass(t, chat(tc.key, tc.prompt, "x-demo-tokens: 64"))
		if _, settled := s.settlement(t, tc.prompt.model); settled["outputTokens"] != "64" {
			t.Errorf("%s: settled %v, want 64 tokens of output", tc.key, settled)
		}
		if a := s.send(t, chat(tc.key, tc.prompt)); a.status != tc.status {
			t.Errorf("%s: status %d, want %d: %s", tc.key, a.status, tc.status, a.body)
		}
		// What fits the kind that is short passes, however much it takes of the other.
		s.pass(t, chat(tc.key, prompt{content: "Hello", maxTokens: 20}))
	}
}
