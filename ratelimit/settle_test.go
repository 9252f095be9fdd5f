package ratelimit_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// marks is what the log tells of a settlement.
type marks struct {
	Msg             string
	InputEstimated  bool
	OutputEstimated bool
}

func TestWhatARequestCosts(t *testing.T) {
	t.Parallel()
	const inputBytes, reservedInput = 400, 100
	stream := func(r *descriptor.Reserve) { r.Stream = true }
	cutAnthropic := func(r *descriptor.Reserve) { r.Stream, r.Protocol = true, descriptor.ProtocolAnthropic }
	embeddings := func(r *descriptor.Reserve) { r.Protocol = descriptor.ProtocolOpenAIEmbeddings }
	opaque := func(r *descriptor.Reserve) { r.Protocol = descriptor.ProtocolOpaque }
	for name, tc := range map[string]struct {
		request           func(*descriptor.Reserve)
		told              descriptor.Settle
		input, output     int64
		guessed, guessed2 bool // input, output
	}{
		"the provider's report": {
			told: descriptor.Settle{Code: 200, OutputBytes: 9000, Reported: descriptor.Usage{Input: 80, Output: 50}}, input: 80, output: 50,
		},
		"more than was reserved": {
			told: descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: 300, Output: 70_000}}, input: 300, output: 70_000,
		},
		"the final report goes before a partial one": {
			told: descriptor.Settle{
				Code: 200, Reported: descriptor.Usage{Input: 80, Output: 50}, Partial: descriptor.Usage{Input: 90, Output: 1},
			}, input: 80, output: 50,
		},
		"nothing: the upstream failed":  {told: descriptor.Settle{Code: 503, OutputBytes: 9000}},
		"nothing: the upstream refused": {told: descriptor.Settle{Code: 429, OutputBytes: 9000}},
		"nothing: the request was bad":  {told: descriptor.Settle{Code: 400}},
		"nothing: a stream failed":      {request: stream, told: descriptor.Settle{Code: 502, OutputBytes: 9000}},
		"what a failed upstream reports": {
			told: descriptor.Settle{Code: 500, Reported: descriptor.Usage{Input: 80}}, input: 80,
		},
		"an estimate from the size of a JSON answer": {
			told: descriptor.Settle{Code: 200, OutputBytes: 711}, input: reservedInput, output: 101, guessed: true, guessed2: true,
		},
		"an estimate of an answer with hardly any content": {
			told: descriptor.Settle{Code: 200, OutputBytes: 300}, input: reservedInput, output: 1, guessed: true, guessed2: true,
		},
		"an estimate of a stream that was cut": {
			request: stream, told: descriptor.Settle{Code: 200, OutputBytes: 300 + 272*10}, input: reservedInput, output: 10, guessed: true, guessed2: true,
		},
		"an estimate of a stream with hardly any content": {
			request: stream, told: descriptor.Settle{Code: 200, OutputBytes: 200}, input: reservedInput, output: 1, guessed: true, guessed2: true,
		},
		"an estimate where the client left before the answer": {
			request: stream, told: descriptor.Settle{Code: 0}, input: reservedInput, guessed: true, guessed2: true,
		},
		"Anthropic's input, and an estimate, of a stream that was cut": {
			request: cutAnthropic,
			told:    descriptor.Settle{Code: 200, OutputBytes: 450 + 119*20, Partial: descriptor.Usage{Input: 90, Output: 1}},
			input:   90, output: 20, guessed2: true,
		},
		"Anthropic's own count where it says more": {
			request: cutAnthropic,
			told:    descriptor.Settle{Code: 200, OutputBytes: 450 + 119*20, Partial: descriptor.Usage{Input: 90, Output: 40}},
			input:   90, output: 40,
		},
		"an estimate of Anthropic's stream without any report": {
			request: cutAnthropic, told: descriptor.Settle{Code: 200, OutputBytes: 450 + 119*20}, input: reservedInput, output: 20, guessed: true, guessed2: true,
		},
		"the report of embeddings": {
			request: embeddings, told: descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: 77}}, input: 77,
		},
		"the input of embeddings without a report": {
			request: embeddings, told: descriptor.Settle{Code: 200, OutputBytes: 50_000}, input: reservedInput, guessed: true,
		},
		"the report of an opaque route": {
			request: opaque, told: descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: 5, Output: 6}}, input: 5, output: 6,
		},
		"nothing of an opaque route without one": {
			request: opaque, told: descriptor.Settle{Code: 200, OutputBytes: 50_000},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			s := serve(t, oneTier(allTokens), keepLog(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
			request := with(outputOf(200), func(r *descriptor.Reserve) { r.InputBytes = inputBytes })
			if tc.request != nil {
				tc.request(request)
			}
			s.end(t, s.pass(t, request), tc.told)
			if diff := cmp.Diff(charged(1, tc.input, tc.output), s.used(t, request)); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(marks{"settled", tc.guessed, tc.guessed2}, lastLine[marks](t, &log)); diff != "" {
				t.Errorf("the log (-want +got):\n%s", diff)
			}
		})
	}
}

func lastLine[T any](t testing.TB, log *bytes.Buffer) (v T) {
	t.Helper()
	lines := bytes.Split(bytes.TrimSpace(log.Bytes()), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], &v); err != nil {
		t.Fatalf("decoding the log: %v", err)
	}
	return v
}

func TestWhatOthersUsedStaysWhenARequestIsSettled(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Tokens Hour 100")))
	first := s.pass(t, outputOf(60))
	second := s.pass(t, outputOf(40))
	s.end(t, first, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Output: 15}})
	if diff := cmp.Diff(map[string]int64{"Key Tokens per Hour": 55}, s.used(t, outputOf(1))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	s.end(t, second, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Output: 90}})
	if diff := cmp.Diff(map[string]int64{"Key Tokens per Hour": 105}, s.used(t, outputOf(1))); diff != "" {
		t.Errorf("counters, beyond the limit (-want +got):\n%s", diff)
	}
}

func TestASettlementGoesToTheWindowThatWasCharged(t *testing.T) {
	t.Parallel()
	for name, told := range map[string]descriptor.Usage{
		"a refund":        {Output: 1},
		"an extra charge": {Output: 90},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier(rates("Tokens Minute 100", "Tokens Hour 1000")))
			old := s.pass(t, outputOf(50))
			s.clock.advance(12 * time.Second) // The minute is over, the hour is not.
			s.pass(t, outputOf(30))
			s.end(t, old, descriptor.Settle{Code: 200, Reported: told})
			want := map[string]int64{"Key Tokens per Minute": 30, "Key Tokens per Hour": 30 + told.Output}
			if diff := cmp.Diff(want, s.used(t, outputOf(1))); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWithoutASettlementTheReservationStaysUntilItsWindowEnds(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Tokens Minute 100")))
	s.pass(t, outputOf(100))
	s.clock.advance(12*time.Second - 1)
	s.refuse(t, outputOf(1), http.StatusTooManyRequests)
	s.clock.advance(1)
	s.pass(t, outputOf(100))
}

func TestOnlyOwnLeasesAreSettled(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Tokens Hour 100")+"\n"))
	lease := s.pass(t, outputOf(50)).Lease
	other := ratelimit.New(s.store, []byte("another secret"), ratelimit.WithClock(s.clock.now))
	for name, told := range map[string]struct {
		limiter *ratelimit.Limiter
		lease   string
	}{
		"another secret": {other, lease},
		"no lease":       {s.Limiter, ""},
		"half a lease":   {s.Limiter, lease[:len(lease)/2]},
	} {
		if err := told.limiter.Settle(t.Context(), &descriptor.Settle{Lease: told.lease, Code: 503}); err == nil {
			t.Errorf("%s: it was settled", name)
		}
		if err := told.limiter.Renew(t.Context(), told.lease); err == nil {
			t.Errorf("%s: it was renewed", name)
		}
	}
	if diff := cmp.Diff(map[string]int64{"Key Tokens per Hour": 50}, s.used(t, outputOf(1))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

func TestWhatAFormerSecretSignedIsSettled(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(rates("Tokens Hour 100")))
	old := s.pass(t, outputOf(50)).Lease
	next := []byte("another secret")
	rotated := ratelimit.New(s.store, next, ratelimit.WithClock(s.clock.now), ratelimit.WithFormerSecret(secret))
	rotated.SetTable(s.table)
	told := descriptor.Settle{Lease: old, Code: 200, Reported: descriptor.Usage{Output: 7}}
	if err := rotated.Settle(t.Context(), &told); err != nil {
		t.Errorf("settling what the former secret signed: %v", err)
	}
	d, err := rotated.Reserve(t.Context(), outputOf(50))
	if err != nil {
		t.Fatal(err)
	}
	if told.Lease = d.Lease; s.Settle(t.Context(), &told) == nil {
		t.Error("the former secret signs what is new")
	}
	if err := ratelimit.New(s.store, next, ratelimit.WithClock(s.clock.now)).Settle(t.Context(), &told); err != nil {
		t.Errorf("settling what the new secret signed: %v", err)
	}
	if diff := cmp.Diff(map[string]int64{"Key Tokens per Hour": 14}, s.used(t, outputOf(1))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

// Any replica over the same store can settle what another one admitted, also one that has no table.
func TestAnotherReplicaSettles(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{rates: [{metric: Tokens, per: Hour, max: 100}], concurrency: {max: 1}}"))
	lease := s.pass(t, outputOf(50)).Lease
	other := ratelimit.New(s.store, secret, ratelimit.WithClock(s.clock.now))
	if err := other.Settle(t.Context(), &descriptor.Settle{Lease: lease, Code: 200, Reported: descriptor.Usage{Output: 7}}); err != nil {
		t.Fatalf("settling: %v", err)
	}
	want := map[string]int64{"Key Tokens per Hour": 7, "Key ConcurrentRequests": 0}
	if diff := cmp.Diff(want, s.used(t, outputOf(1))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}
