package ratelimit_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

func TestEveryResponseTellsItsLimitsInBothDialects(t *testing.T) {
	t.Parallel()
	s := serve(t, `tiers: {plan: {priority: High, limits: `+rates("Requests Minute 50", "Tokens Minute 1000")+`}}`)
	s.pass(t, chat("sk-alice"))
	got := headersOf(t, s.pass(t, with(chat("sk-alice"), func(r *descriptor.Reserve) { r.InputBytes = 400 })))
	want := map[string]string{
		"x-ratelimit-limit-requests":     "50",
		"x-ratelimit-remaining-requests": "48",
		"x-ratelimit-reset-requests":     "1707913860",
		"x-ratelimit-limit-tokens":       "1000",
		"x-ratelimit-remaining-tokens":   "880", // 10, then 100 and 10
		"x-ratelimit-reset-tokens":       "12s",
		"X-RateLimit-Limit":              "50",
		"X-RateLimit-Remaining":          "48",
		"X-RateLimit-Reset":              "1707913860",
		"X-RateLimit-Resource":           "chat",
		"X-RateLimit-Used":               "2",
		"X-Request-Priority":             "3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestUnlimitedRequestsTellOnlyResourceAndPriority(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]string{
		"nothing is said":               "{}",
		"limits are lifted":             "{rates: [{metric: Requests, per: Minute, mode: Unlimited}, {metric: Tokens, per: Day, mode: Unlimited}]}",
		"only other things are limited": "{rates: [{metric: InputTokens, per: Minute, max: 100}], concurrency: {max: 5}}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := map[string]string{"X-RateLimit-Resource": "chat", "X-Request-Priority": "2"}
			d := serve(t, oneTier(limits)).pass(t, chat("sk-alice"))
			if diff := cmp.Diff(want, headersOf(t, d)); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHeadersAreThoseOfTheGateway(t *testing.T) {
	t.Parallel()
	limits := rates("Requests Minute 5", "Requests Day 4", "Tokens Hour 100", "Tokens Day 90")
	perMetric := func(text string) string { return "{type: PerMetric, perMetric: " + text + "}" }
	for name, tc := range map[string]struct {
		dialects string
		want     map[string]string
	}{
		"seconds since 1970 and time left": {
			perMetric("{requestsReset: UnixSeconds, tokensReset: Duration}"),
			map[string]string{
				"x-ratelimit-limit-requests": "5", "x-ratelimit-remaining-requests": "4", "x-ratelimit-reset-requests": "1707913860",
				"x-ratelimit-limit-tokens": "100", "x-ratelimit-remaining-tokens": "90", "x-ratelimit-reset-tokens": "29m12s",
			},
		},
		"seconds left": {
			perMetric("{requestsReset: DeltaSeconds, tokensReset: DeltaSeconds}"),
			map[string]string{
				"x-ratelimit-limit-requests": "5", "x-ratelimit-remaining-requests": "4", "x-ratelimit-reset-requests": "12",
				"x-ratelimit-limit-tokens": "100", "x-ratelimit-remaining-tokens": "90", "x-ratelimit-reset-tokens": "1752",
			},
		},
		"a named window": {
			perMetric("{requestsReset: Duration, tokensReset: UnixSeconds, window: Day}"),
			map[string]string{
				"x-ratelimit-limit-requests": "4", "x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "11h29m12s",
				"x-ratelimit-limit-tokens": "90", "x-ratelimit-remaining-tokens": "80", "x-ratelimit-reset-tokens": "1707955200",
			},
		},
		"a named window that only one metric has": {
			perMetric("{requestsReset: DeltaSeconds, tokensReset: DeltaSeconds, window: Minute}"),
			map[string]string{"x-ratelimit-limit-requests": "5", "x-ratelimit-remaining-requests": "4", "x-ratelimit-reset-requests": "12"},
		},
		"the resource's, of a named window": {
			"{type: PerResource, perResource: {window: Day}}",
			map[string]string{
				"X-RateLimit-Limit": "4", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "1707955200", "X-RateLimit-Used": "1",
				"X-RateLimit-Resource": "chat", "X-Request-Priority": "2",
			},
		},
		"the resource's, of a window without a limit": {
			"{type: PerResource, perResource: {window: Month}}",
			map[string]string{"X-RateLimit-Resource": "chat", "X-Request-Priority": "2"},
		},
		"Anthropic's": {
			"{type: Anthropic}", inAnthropics("requests 5 4 2024-02-14T12:31:00Z", "tokens 100 90 2024-02-14T13:00:00Z"),
		},
		"Anthropic's, of a named window": {
			"{type: Anthropic, anthropic: {window: Day}}",
			inAnthropics("requests 4 3 2024-02-15T00:00:00Z", "tokens 90 80 2024-02-15T00:00:00Z"),
		},
		"IETF's": {
			"{type: IETF}",
			map[string]string{
				"RateLimit-Policy": `"requests-minute";q=5;w=60, "tokens-hour";q=100;qu="tokens";w=3600`,
				"RateLimit":        `"requests-minute";r=4;t=12, "tokens-hour";r=90;t=1752`,
			},
		},
		"IETF's, of a named window": {
			"{type: IETF, ietf: {window: Day}}",
			map[string]string{
				"RateLimit-Policy": `"requests-day";q=4;w=86400, "tokens-day";q=90;qu="tokens";w=86400`,
				"RateLimit":        `"requests-day";r=3;t=41352, "tokens-day";r=80;t=41352`,
			},
		},
		"IETF's and Anthropic's, of a window without a limit": {
			"{type: IETF, ietf: {window: Month}}, {type: Anthropic, anthropic: {window: Second}}", map[string]string{},
		},
		"none": {"", map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier(limits)+"\ngateway: {headers: {dialects: ["+tc.dialects+"]}}")
			if diff := cmp.Diff(tc.want, headersOf(t, s.pass(t, chat("sk-alice")))); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
}

// Of several limits the headers speak of the shortest window, and there of the limit that has least left.
func TestTheNearestLimitIsReported(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		all, resource string
		want          string
	}{
		"the shorter window, also with more left": {rates("Requests Hour 3", "Requests Minute 50"), "{}", "50"},
		"the shorter window of a narrower scope":  {rates("Requests Hour 3"), rates("Requests Minute 50"), "50"},
		"of equal windows the one with less left": {rates("Requests Minute 50"), rates("Requests Minute 30"), "30"},
		"the same the other way round":            {rates("Requests Minute 30"), rates("Requests Minute 50"), "30"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, "tiers: {plan: {limits: "+tc.all+", resources: [{resource: chat, limits: "+tc.resource+"}]}}")
			got := headersOf(t, s.pass(t, chat("sk-alice")))
			if got["X-RateLimit-Limit"] != tc.want || got["x-ratelimit-limit-requests"] != tc.want {
				t.Errorf("headers are %v, want the limit of %s", got, tc.want)
			}
		})
	}
}

func TestLeastRemainingIsWhatOthersHaveLeft(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {plan: {limits: `+rates("Requests Minute 5")+`}}
models: {large: {models: [gpt-5], shared: `+rates("Requests Minute 6")+`}}
quotas: {team/alice: {tierRef: {name: plan}}, team/bob: {tierRef: {name: plan}}}
`)
	for range 3 {
		s.pass(t, chat("sk-bob"))
	}
	got := only(headersOf(t, s.pass(t, chat("sk-alice"))), "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Used")
	want := map[string]string{"X-RateLimit-Limit": "6", "X-RateLimit-Remaining": "2", "X-RateLimit-Used": "4"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestADenialReportsTheLimitThatDenied(t *testing.T) {
	t.Parallel()
	requests := func(limit, remaining, reset string) map[string]string {
		return map[string]string{
			"x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": remaining, "x-ratelimit-reset-requests": reset,
		}
	}
	tokens := func(limit, remaining, reset string) map[string]string {
		return map[string]string{
			"x-ratelimit-limit-tokens": limit, "x-ratelimit-remaining-tokens": remaining, "x-ratelimit-reset-tokens": reset,
		}
	}
	resource := func(limit, remaining, reset, used string) map[string]string {
		return map[string]string{
			"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset, "X-RateLimit-Used": used,
			"X-RateLimit-Resource": "chat", "X-Request-Priority": "2",
		}
	}
	for name, tc := range map[string]struct {
		limits string
		want   []map[string]string
	}{
		"requests, of a longer window than the nearest": {
			rates("Requests Minute 50", "Requests Day 1", "Tokens Minute 100"),
			[]map[string]string{requests("1", "0", "1707955200"), tokens("100", "90", "12s"), resource("1", "0", "1707955200", "1")},
		},
		"tokens, of a longer window: the resource's stay": {
			rates("Requests Minute 50", "Tokens Minute 100", "Tokens Hour 15"),
			[]map[string]string{requests("50", "49", "1707913860"), tokens("15", "5", "29m12s"), resource("50", "49", "1707913860", "1")},
		},
		"output tokens, which no header reports": {
			rates("Requests Minute 50", "Tokens Minute 100", "OutputTokens Hour 15"),
			[]map[string]string{requests("50", "49", "1707913860"), tokens("100", "90", "12s"), resource("50", "49", "1707913860", "1")},
		},
		"concurrency: all stay": {
			"{rates: [{metric: Requests, per: Minute, max: 50}, {metric: Tokens, per: Minute, max: 100}], concurrency: {max: 1}}",
			[]map[string]string{requests("50", "49", "1707913860"), tokens("100", "90", "12s"), resource("50", "49", "1707913860", "1")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier(tc.limits))
			s.pass(t, chat("sk-alice"))
			d := s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
			got := only(headersOf(t, d), "x-ratelimit-", "X-")
			want := map[string]string{}
			for _, part := range tc.want {
				maps.Copy(want, part)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
}

// inAnthropics are Anthropic's headers of metrics, each as in "requests 5 4 2024-02-14T12:31:00Z".
func inAnthropics(metrics ...string) map[string]string {
	headers := map[string]string{}
	for _, m := range metrics {
		values := strings.Fields(m)
		for i, name := range []string{"limit", "remaining", "reset"} {
			headers["anthropic-ratelimit-"+values[0]+"-"+name] = values[i+1]
		}
	}
	return headers
}

// speaking is a gateway that speaks the dialects.
func speaking(dialects string) string {
	return "\ngateway: {headers: {dialects: [" + dialects + "]}}"
}

// The dialects that know all metrics.
const everyMetric = "{type: IETF}, {type: Anthropic}"

func TestEveryMetricIsTold(t *testing.T) {
	t.Parallel()
	limits := "{concurrency: {max: 3}, rates: [{metric: Requests, per: Second, max: 5}, {metric: Tokens, per: Month, max: 9007199254740991}," +
		" {metric: InputTokens, per: Minute, max: 100}, {metric: OutputTokens, per: Hour, max: 50}]}"
	s := serve(t, oneTier(limits)+speaking(everyMetric))
	got := headersOf(t, s.pass(t, with(chat("sk-alice"), func(r *descriptor.Reserve) { r.MaxOutput = 10; r.InputBytes = 40 })))
	want := inAnthropics(
		"requests 5 4 2024-02-14T12:30:49Z", "tokens 9007199254740991 9007199254740971 2024-03-01T00:00:00Z",
		"input-tokens 100 90 2024-02-14T12:31:00Z", "output-tokens 50 40 2024-02-14T13:00:00Z")
	want["RateLimit-Policy"] = `"requests-second";q=5;w=1, "tokens-month";q=999999999999999;qu="tokens";w=2505600, ` +
		`"input-tokens-minute";q=100;qu="input-tokens";w=60, "output-tokens-hour";q=50;qu="output-tokens";w=3600, ` +
		`"concurrent-requests";q=3;qu="concurrent-requests"`
	want["RateLimit"] = `"requests-second";r=4;t=1, "tokens-month";r=999999999999999;t=1337352, ` +
		`"input-tokens-minute";r=90;t=12, "output-tokens-hour";r=40;t=1752, "concurrent-requests";r=2`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

// What denied stands in the place of what else would be told of its metric.
func TestADenialIsToldForEveryMetric(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		limits, left, tokens, output string
	}{
		"output tokens": {
			rates("Requests Minute 50", "Tokens Minute 100", "OutputTokens Minute 90", "OutputTokens Hour 15"),
			`"requests-minute";r=49;t=12, "tokens-minute";r=90;t=12, "output-tokens-hour";r=5;t=1752`, "90", "5",
		},
		"concurrency": {
			"{rates: [{metric: Requests, per: Minute, max: 50}, {metric: OutputTokens, per: Minute, max: 90}], concurrency: {max: 1}}",
			`"requests-minute";r=49;t=12, "output-tokens-minute";r=80;t=12, "concurrent-requests";r=0`, "", "80",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier(tc.limits)+speaking(everyMetric))
			s.pass(t, chat("sk-alice"))
			got := headersOf(t, s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests))
			told := [3]string{got["RateLimit"], got["anthropic-ratelimit-tokens-remaining"], got["anthropic-ratelimit-output-tokens-remaining"]}
			if want := [3]string{tc.left, tc.tokens, tc.output}; told != want {
				t.Errorf("told %q, want %q", told, want)
			}
		})
	}
}

func TestWhoeverIsNotCountedIsToldNoLimit(t *testing.T) {
	t.Parallel()
	unlimited := "{rates: [{metric: Requests, per: Minute, mode: Unlimited}, {metric: OutputTokens, per: Day, mode: Unlimited}], concurrency: {mode: Unlimited}}"
	s := serve(t, oneTier(unlimited)+speaking(everyMetric))
	for what, got := range map[string]ratelimit.Decision{
		"unlimited":   s.pass(t, chat("sk-alice")),
		"unmetered":   s.pass(t, with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Unmetered = true })),
		"unknown key": s.refuse(t, chat("sk-nobody"), http.StatusUnauthorized),
	} {
		if diff := cmp.Diff(map[string]string{}, headersOf(t, got)); diff != "" {
			t.Errorf("%s: headers (-want +got):\n%s", what, diff)
		}
	}
}

func TestRemainingCountsOpenReservations(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Requests Hour 10", "Tokens Hour 1000")))
	request := func() *descriptor.Reserve {
		return with(chat("sk-alice"), func(r *descriptor.Reserve) { r.MaxOutput = 300 })
	}
	first := s.pass(t, request())
	if got := headersOf(t, first)["x-ratelimit-remaining-tokens"]; got != "700" {
		t.Errorf("%s tokens remain while the first request is under way, want 700", got)
	}
	if got := headersOf(t, s.pass(t, request()))["x-ratelimit-remaining-tokens"]; got != "400" {
		t.Errorf("%s tokens remain while two are under way, want 400", got)
	}
	s.end(t, first, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: 20, Output: 30}})
	if got := headersOf(t, s.pass(t, request()))["x-ratelimit-remaining-tokens"]; got != "350" {
		t.Errorf("%s tokens remain after the first cost 50, want 350", got)
	}
}

// What a settlement charged beyond a limit is used, but less than nothing is not left.
func TestRemainingIsNeverBelowZero(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Tokens Hour 100", "Requests Hour 100")))
	s.end(t, s.pass(t, chat("sk-alice")), descriptor.Settle{Code: 200, Reported: descriptor.Usage{Output: 500}})
	d := s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
	if got := headersOf(t, d)["x-ratelimit-remaining-tokens"]; got != "0" {
		t.Errorf("%s tokens remain, want 0", got)
	}
	s.clock.advance(time.Hour)
	if got := headersOf(t, s.pass(t, chat("sk-alice")))["x-ratelimit-remaining-tokens"]; got != "90" {
		t.Errorf("%s tokens remain in the next window, want 90", got)
	}
}
