package ratelimit_test

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// allTokens limits each kind of token, so that the counters tell what a request was charged.
var allTokens = rates("Requests Hour 100", "Tokens Hour 1000000", "InputTokens Hour 1000000", "OutputTokens Hour 1000000")

// charged is what the counters of allTokens should hold.
func charged(requests, input, output int64) map[string]int64 {
	return map[string]int64{
		"Key Requests per Hour": requests, "Key Tokens per Hour": input + output,
		"Key InputTokens per Hour": input, "Key OutputTokens per Hour": output,
	}
}

func TestARequestReservesItsInputAndTheMostItMayBringOut(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change        func(*descriptor.Reserve)
		input, output int64
	}{
		"a maximum of its own":                {func(r *descriptor.Reserve) { r.InputBytes, r.MaxOutput = 4000, 200 }, 1000, 200},
		"a part of a token is rounded up":     {func(r *descriptor.Reserve) { r.InputBytes, r.MaxOutput = 4001, 200 }, 1001, 200},
		"no maximum":                          {func(r *descriptor.Reserve) { r.InputBytes, r.MaxOutput = 400, 0 }, 100, 1024},
		"no maximum, of a model with default": {func(r *descriptor.Reserve) { r.Model, r.MaxOutput = "tiny-1", 0 }, 0, 64},
		"a maximum, of a model with default":  {func(r *descriptor.Reserve) { r.Model, r.MaxOutput = "tiny-1", 70 }, 0, 70},
		"Anthropic's protocol": {
			func(r *descriptor.Reserve) { r.Protocol, r.InputBytes = descriptor.ProtocolAnthropic, 40 }, 10, 10,
		},
		"embeddings bring out none": {
			func(r *descriptor.Reserve) {
				r.Protocol, r.InputBytes, r.MaxOutput = descriptor.ProtocolOpenAIEmbeddings, 400, 0
			}, 100, 0,
		},
		"images bring out none": {
			func(r *descriptor.Reserve) {
				r.Protocol, r.InputBytes, r.MaxOutput = descriptor.ProtocolOpenAIImages, 400, 0
			}, 100, 0,
		},
		"images, of a model with default": {
			func(r *descriptor.Reserve) {
				r.Protocol, r.Model, r.MaxOutput = descriptor.ProtocolOpenAIImages, "tiny-1", 0
			}, 0, 64,
		},
		"an opaque request reserves none": {
			func(r *descriptor.Reserve) {
				r.Protocol, r.InputBytes, r.MaxOutput = descriptor.ProtocolOpaque, 400, 50
			}, 0, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier(allTokens)+"\nmodels: {tiny: {models: [\"tiny-*\"], tokens: {defaultOutputTokens: 64}}}")
			request := with(chat("sk-alice"), tc.change)
			s.pass(t, request)
			if diff := cmp.Diff(charged(1, tc.input, tc.output), s.used(t, request)); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

func outputOf(n int64) *descriptor.Reserve {
	return with(chat("sk-alice"), func(r *descriptor.Reserve) { r.MaxOutput = n })
}

func TestARequestLargerThanItsLimitPassesOnlyInAnEmptyWindow(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Tokens Hour 100", "OutputTokens Day 1000000")))
	large := s.pass(t, outputOf(5000))
	if got := headersOf(t, large)["x-ratelimit-remaining-tokens"]; got != "0" {
		t.Errorf("%s tokens remain, want 0", got)
	}
	s.refuse(t, outputOf(1), http.StatusTooManyRequests)
	s.end(t, large, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: 10, Output: 20}})
	want := map[string]int64{"Key Tokens per Hour": 30, "Key OutputTokens per Day": 20}
	if diff := cmp.Diff(want, s.used(t, outputOf(1))); diff != "" {
		t.Errorf("counters after the truth is known (-want +got):\n%s", diff)
	}
	s.refuse(t, outputOf(5000), http.StatusTooManyRequests)
	s.pass(t, outputOf(70))
}

func TestALimitOfZeroIsNeverPassed(t *testing.T) {
	t.Parallel()
	for _, metric := range []string{"Requests", "Tokens", "OutputTokens"} {
		t.Run(metric, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier(rates(metric+" Hour 0")))
			for _, output := range []int64{0, 1, 5000} {
				s.refuse(t, outputOf(output), http.StatusTooManyRequests)
			}
		})
	}
}

// A request cannot bring out more than some thousands of tokens, whatever number its client writes.
func TestWhatOneRequestReservesIsBounded(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{rates: [{metric: Tokens, per: Month, max: 9007199254740991}, {metric: OutputTokens, per: Month, max: 9007199254740991}]}"))
	request := with(outputOf(1<<53-1), func(r *descriptor.Reserve) { r.InputBytes = 1<<53 - 1 })
	s.pass(t, request)
	want := map[string]int64{"Key Tokens per Month": 2 * ratelimit.MaxReserved, "Key OutputTokens per Month": ratelimit.MaxReserved}
	if diff := cmp.Diff(want, s.used(t, request)); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

func TestOfFiveRequestsAtOnceTheLimitAdmitsTwo(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Tokens Hour 100")))
	var passed atomic.Int64
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			d, err := s.Reserve(t.Context(), outputOf(50))
			if err != nil {
				t.Errorf("reserving: %v", err)
			}
			if err == nil && d.Status == 0 {
				passed.Add(1)
			}
		})
	}
	all.Wait()
	if got := passed.Load(); got != 2 {
		t.Errorf("%d requests passed, want 2", got)
	}
	if diff := cmp.Diff(map[string]int64{"Key Tokens per Hour": 100}, s.used(t, outputOf(50))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}
