package envoy_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// checkTries demands that a call took so many tries with these answers, and between two of them about the second that
// Retry-After said: with none of them it was over at once.
func (r sdkResult) checkTries(t *testing.T, name string, statuses ...int) {
	t.Helper()
	if diff := cmp.Diff(statuses, r.statuses()); diff != "" {
		t.Errorf("%s: tries (-want +got):\n%s", name, diff)
	}
	const told = time.Second
	for i, wait := range r.waits() {
		// Node's timers may go off a millisecond early.
		if wait < told-10*time.Millisecond || wait > told+soon {
			t.Errorf("%s: try %d came after %s, want %s and little more", name, i+2, wait, told)
		}
	}
	least := time.Duration(len(r.waits())) * told
	if total := time.Duration(r.Seconds * float64(time.Second)); total < least-20*time.Millisecond || total > least+soon {
		t.Errorf("%s: the caller waited %s, want %s and little more", name, total, least)
	}
}

// ask is a call that a library makes with its own key.
func (k sdk) ask() sdkCall {
	return sdkCall{API: plain[k.library][0], Key: k.key(), Model: "some", Text: "Hello"}
}

// takeSlot opens a stream with the library's own key, which may have one.
func (k sdk) takeSlot(t *testing.T, s *system) *stream {
	t.Helper()
	r := chat(k.key(), prompt{stream: true, model: "held-by-" + k.name()}, "x-demo-token-delay: 1h")
	st := s.open(t, r)
	if st.status != http.StatusOK {
		t.Fatalf("the stream got %d", st.status)
	}
	return st
}

func single(t *testing.T) *system {
	t.Helper()
	return startForSDKs(t, manifests(gateway, tier("single", "concurrency: 1"), holders("single")))
}

// A refusal is held back until there is room: so the library's second try is sure to find it.
func TestSDKsWaitAsToldAndSucceed(t *testing.T) {
	t.Parallel()
	s := single(t)
	eachSDK(t, func(t *testing.T, k sdk) {
		st, p := k.takeSlot(t, s), newTap(t, s)
		p.refused = make(chan func())
		end := p.begin(t, k, k.ask())
		pass := p.refusal(t)
		st.cut()
		s.settlement(t, "held-by-"+k.name())
		pass()
		got := end()[0]
		got.checkTries(t, k.name(), http.StatusTooManyRequests, http.StatusOK)
		if got.Answer.Text == "" {
			t.Errorf("the caller got %+v", got)
		}
	})
}

func TestSDKsGiveUpAfterTwoRetries(t *testing.T) {
	t.Parallel()
	s := single(t)
	eachSDK(t, func(t *testing.T, k sdk) {
		k.takeSlot(t, s)
		got := newTap(t, s).make(t, k, k.ask())[0]
		got.checkTries(t, k.name(), http.StatusTooManyRequests, http.StatusTooManyRequests, http.StatusTooManyRequests)
		want := sdkError{Class: "RateLimitError", Status: 429, Type: "rate_limit_error", Message: "Too many requests at once. Please retry after N seconds.", RetryAfter: "N"}
		if k.library == "openai" {
			want.Code = "concurrency_limit_exceeded"
		}
		checkThrown(t, k.name(), want, got)
	})
}

// Without x-should-retry some of them would sleep through whatever Retry-After says.
func TestSDKsDoNotSleepThroughALongWait(t *testing.T) {
	t.Parallel()
	s := startForSDKs(t, manifests(gateway, tier("rare", "{metric: Requests, per: Month, max: 1}"), holders("rare")))
	clearOf(t, 24*time.Hour)
	eachSDK(t, func(t *testing.T, k sdk) {
		results := newTap(t, s).make(t, k, k.ask(), k.ask())
		results[0].checkTries(t, "first", http.StatusOK)
		results[1].checkTries(t, "second", http.StatusTooManyRequests)
		if wait, err := strconv.Atoi(results[1].Error.RetryAfter); err != nil || wait <= 60 {
			t.Errorf("Retry-After is %q, want more than a minute", results[1].Error.RetryAfter)
		}
	})
}
