package ratelimit_test

import (
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
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
