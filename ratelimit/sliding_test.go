package ratelimit_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// TestASlidingLimitSaysWhenARequestFits: whoever waits as long as any of the headers says is let in, and whoever comes a
// second earlier is not. Around the end of a minute nobody gets more.
func TestASlidingLimitSaysWhenARequestFits(t *testing.T) {
	t.Parallel()
	const dialects = "gateway: {headers: {dialects: [{type: PerMetric, perMetric: {requestsReset: UnixSeconds, tokensReset: DeltaSeconds}}]}}\n"
	for name, tc := range map[string]struct {
		limit string
		first time.Duration // between the first request, which fits, and the second, which does not
		want  map[string]string
	}{
		// The sub-windows of the first request begin at 12:30:45, 12:30:00 and 12:30:48.
		"requests per minute": {"Requests Minute 1 SlidingWindow", 20 * time.Second, map[string]string{
			"Retry-After": "41", "x-ratelimit-limit-requests": "1", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1707913909",
		}},
		"requests per hour": {"Requests Hour 1 SlidingWindow", 30 * time.Minute, map[string]string{
			"Retry-After": "1977", "x-should-retry": "false",
			"x-ratelimit-limit-requests": "1", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1707917625",
		}},
		"requests per second": {"Requests Second 1 SlidingWindow", 50 * time.Millisecond, map[string]string{
			"Retry-After": "2", "x-ratelimit-limit-requests": "1", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1707913850",
		}},
		"tokens per minute": {"Tokens Minute 15 SlidingWindow", 20 * time.Second, map[string]string{
			"Retry-After": "41", "x-ratelimit-limit-tokens": "15", "x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "41",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, dialects+oneTier(rates(tc.limit)))
			s.pass(t, chat("sk-alice"))
			s.clock.advance(tc.first)
			denied := headersOf(t, s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests))
			if diff := cmp.Diff(tc.want, only(denied, "x-ratelimit", "Retry-After", "x-should-retry")); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
			wait, err := strconv.Atoi(denied["Retry-After"])
			if err != nil {
				t.Fatal(err)
			}
			s.clock.advance(time.Duration(wait-1) * time.Second)
			s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
			s.clock.advance(time.Second)
			s.pass(t, chat("sk-alice"))
		})
	}
}

// TestADenialNamesTheLimitThatLetsInLast, although all that they count is gone at the same time.
func TestADenialNamesTheLimitThatLetsInLast(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Requests Minute 2 SlidingWindow", "Tokens Minute 20 SlidingWindow")))
	s.pass(t, chat("sk-alice")) // at 12:30:48, with 10 tokens
	s.clock.advance(30 * time.Second)
	s.pass(t, chat("sk-alice"))
	for tokens, want := range map[int64]map[string]string{
		10: {"Retry-After": "31", "x-ratelimit-reset-tokens": "31s", "x-ratelimit-reset-requests": "1707913909"}, // at 12:31:48.75
		20: {"Retry-After": "61", "x-ratelimit-reset-tokens": "1m1s"},                                            // at 12:32:18.75
	} {
		denied := headersOf(t, s.refuse(t, with(chat("sk-alice"), func(r *descriptor.Reserve) { r.MaxOutput = tokens }), http.StatusTooManyRequests))
		for name, value := range want {
			if denied[name] != value {
				t.Errorf("%d tokens: %s is %q, want %q", tokens, name, denied[name], value)
			}
		}
	}
}

// TestALeaseSettlesTheSubWindowThatItWasTakenFrom also where that begins between two milliseconds, in which leases tell time.
func TestALeaseSettlesTheSubWindowThatItWasTakenFrom(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Tokens Second 100 SlidingWindow", "Tokens Minute 1000 SlidingWindow")))
	const subWindow, apart = time.Second / counter.SubWindows, 12_501 * time.Microsecond // the sixth comes at 62.505 ms
	var open []ratelimit.Decision
	for range 40 {
		open = append(open, s.pass(t, with(chat("sk-alice"), func(r *descriptor.Reserve) { r.MaxOutput = 2 })))
		s.clock.advance(apart)
	}
	for _, d := range open {
		s.end(t, d, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: 1}})
	}
	for _, step := range []struct {
		wait time.Duration
		want map[string]int64
	}{
		{0, map[string]int64{"Key Tokens per Second": 40, "Key Tokens per Minute": 40}},
		{time.Second + subWindow - 40*apart, map[string]int64{"Key Tokens per Second": 34, "Key Tokens per Minute": 40}},
		{time.Second, map[string]int64{"Key Tokens per Second": 0, "Key Tokens per Minute": 40}},
		{time.Minute, map[string]int64{"Key Tokens per Second": 0, "Key Tokens per Minute": 0}},
	} {
		s.clock.advance(step.wait)
		if diff := cmp.Diff(step.want, s.used(t, chat("sk-alice"))); diff != "" {
			t.Errorf("counters (-want +got):\n%s", diff)
		}
	}
}
