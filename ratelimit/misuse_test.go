package ratelimit_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

const budget = "{rates: [{metric: Requests, per: Day, max: 5}, {metric: Tokens, per: Day, max: 1000}], concurrency: {max: 5}}"

// TestBadInputIsCountedToldOnceAndHarmless sends what must not come, each a hundred times within a minute.
func TestBadInputIsCountedToldOnceAndHarmless(t *testing.T) {
	t.Parallel()
	foreign := ratelimit.NewSealer([]byte("another secret"))
	for kind, lease := range map[string]func(now time.Time, ended string) string{
		"no_lease":        func(time.Time, string) string { return "" },
		"forged_lease":    func(now time.Time, _ string) string { return foreign.Seal(ratelimit.Lease{Taken: now}) },
		"malformed_lease": func(time.Time, string) string { return "not a lease" },
		"unknown_version": func(time.Time, string) string { return sealer.Sign([]byte{99, 1, 2, 3}) },
		"expired_lease": func(now time.Time, _ string) string {
			return sealer.Seal(ratelimit.Lease{Taken: now.Add(-25 * time.Hour)})
		},
		"replayed_lease": func(_ time.Time, ended string) string { return ended },
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var log lockedBuffer
			s := serve(t, oneTier(budget))
			conn := listen(t, s.Limiter, everything(&log))
			granted(t, conn, reserving("sk-alice", 10))
			ended := granted(t, conn, reserving("sk-alice", 10))
			call(t, conn, settling(ended, 200, 7))
			before := s.used(t, chat("sk-alice"))
			for range 100 {
				call(t, conn, settling(lease(s.clock.now(), ended), 200, 1))
			}
			s.checkNoted(t, kind, 100, log.String())
			if diff := cmp.Diff(before, s.used(t, chat("sk-alice"))); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
			s.clock.advance(time.Minute)
			call(t, conn, settling(lease(s.clock.now(), ended), 200, 1))
			if got := strings.Count(log.String(), `"kind":"`+kind+`"`); got != 2 {
				t.Errorf("after a minute it was told %d times, want 2", got)
			}
		})
	}
}

// checkNoted checks that what happened n times within a minute is counted each time and told once.
func (s *service) checkNoted(t *testing.T, kind string, n float64, log string) {
	t.Helper()
	if got := s.measured(t, "tierkeeper_bad_input_total", kind); got != n {
		t.Errorf("%v of kind %s are counted, want %v", got, kind, n)
	}
	if got := strings.Count(log, `"kind":"`+kind+`"`); got != 1 {
		t.Errorf("it is told %d times, want once: %s", got, log)
	}
}

func TestAnAbsurdReportIsCountedAndAsGoodAsNone(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := serve(t, oneTier(budget), keepLog(everything(&log).Handler()))
	conn := listen(t, s.Limiter, everything(&log))
	for range 3 {
		d := settling(granted(t, conn, reserving("sk-alice", 10)), 200, 7)
		d.Entries = append(d.Entries, entry(descriptor.KeyInputTokens, "1e300"), entry(descriptor.KeyOutputTokens, "-5"))
		call(t, conn, d)
	}
	s.checkNoted(t, "absurd_usage", 3, log.String())
	if got := s.used(t, chat("sk-alice"))["Key Tokens per Day"]; got != 21 {
		t.Errorf("%d tokens are charged, want the 7 of each that were reported in earnest", got)
	}
}

// Calls look at the clock before they come to tell, and not in that order.
func TestWhoLookedAtTheClockEarlierDoesNotTellAgain(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := serve(t, oneTier(budget))
	conn := listen(t, s.Limiter, everything(&log))
	for range 3 {
		call(t, conn, settling("", 200, 1))
		s.clock.advance(-time.Millisecond)
	}
	s.checkNoted(t, "no_lease", 3, log.String())
	s.clock.advance(-time.Minute)
	call(t, conn, settling("", 200, 1))
	if got := strings.Count(log.String(), `"kind":"no_lease"`); got != 2 {
		t.Errorf("after the clock was set back by a minute it was told %d times, want 2", got)
	}
}

// A call that stands still after it has looked at the clock finds that others have looked at it later.
func TestACallThatStoodStillIsNoClockThatWentBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveAt(t, nil, oneTier(rates("Requests Day 9")))
		var stands atomic.Bool
		s.Limiter = ratelimit.New(s.store, secret, ratelimit.WithClock(func() time.Time {
			at := s.clock.now()
			if stands.CompareAndSwap(true, false) {
				pause(time.Minute)
			}
			return at
		}))
		s.SetTable(s.table)
		stands.Store(true)
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.pass(t, chat("sk-alice"))
		}()
		pause(30 * time.Second)
		s.pass(t, chat("sk-alice"))
		<-done
		if got := s.measured(t, "tierkeeper_bad_input_total", "clock_back"); got != 0 {
			t.Errorf("%v steps back are counted of a clock that went on", got)
		}
	})
}

// A clock that is set back makes no full window empty again, and does no harm when it goes on.
func TestAClockThatStepsBackIsCountedAndHarmless(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := serve(t, oneTier(rates("Requests Minute 3")), keepLog(everything(&log).Handler()))
	s.pass(t, chat("sk-alice"))
	s.clock.advance(time.Minute)
	for range 3 {
		s.pass(t, chat("sk-alice"))
	}
	s.clock.advance(-time.Minute)
	for range 5 {
		s.refuse(t, chat("sk-alice"), 429)
	}
	s.checkNoted(t, "clock_back", 1, log.String())
	s.clock.advance(2 * time.Minute)
	for range 3 {
		s.pass(t, chat("sk-alice"))
	}
	s.refuse(t, chat("sk-alice"), 429)
	s.clock.advance(-ratelimit.StepBack) // Two readings may overtake each other.
	s.refuse(t, chat("sk-alice"), 429)
	if got := s.measured(t, "tierkeeper_bad_input_total", "clock_back"); got != 1 {
		t.Errorf("%v steps back are counted, want 1", got)
	}
}

// Slots are held as long as ever by a clock that was set back.
func TestAClockThatIsSetBackLiftsNoConcurrency(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{concurrency: {max: 2}}"))
	s.clock.advance(time.Hour)
	s.end(t, s.pass(t, chat("sk-alice")), descriptor.Settle{Code: 200})
	s.clock.advance(-time.Hour)
	first := s.pass(t, chat("sk-alice"))
	s.pass(t, chat("sk-alice"))
	s.refuse(t, chat("sk-alice"), 429)
	s.end(t, first, descriptor.Settle{Code: 200})
	s.pass(t, chat("sk-alice"))
	s.refuse(t, chat("sk-alice"), 429)
}

// A lease outlives its object: what it took is corrected and freed where nobody looks any more.
func TestALeaseOfAnObjectThatIsGoneIsSettledQuietly(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	const models = "\nmodels: {gpt: {models: ['gpt-*'], capacity: {concurrentRequests: 1}}}"
	s := serve(t, oneTier(budget)+models, keepLog(everything(&log).Handler()))
	conn := listen(t, s.Limiter, everything(&log))
	lease := granted(t, conn, reserving("sk-alice", 10))
	s.apply(t, "tiers: {}\nquotas: {}")
	call(t, conn, settling(lease, 200, 7))
	s.refuse(t, chat("sk-alice"), 401)
	s.apply(t, oneTier(budget)+models)
	want := map[string]int64{"Key Requests per Day": 1, "Key Tokens per Day": 7, "Key ConcurrentRequests": 0, "ModelShared ConcurrentRequests": 0}
	if diff := cmp.Diff(want, s.used(t, chat("sk-alice"))); diff != "" {
		t.Errorf("counters once it is back (-want +got):\n%s", diff)
	}
	if strings.Contains(log.String(), `"level":"WARN"`) || strings.Contains(log.String(), `"level":"ERROR"`) {
		t.Errorf("it is told as something bad: %s", log.String())
	}
}

// A process that is new settles what the one before it gave, once.
func TestALeaseOfAnEarlierLifeIsSettledOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier(budget))
	lease := s.pass(t, chat("sk-alice")).Lease
	next := ratelimit.New(s.store, secret, ratelimit.WithClock(s.clock.now))
	next.SetTable(s.table)
	told := descriptor.Settle{Lease: lease, Code: 200, Reported: descriptor.Usage{Input: 1, Output: 2}}
	if err := next.Settle(t.Context(), &told); err != nil {
		t.Fatal(err)
	}
	if err := next.Settle(t.Context(), &told); err == nil {
		t.Error("it is settled twice")
	}
	want := map[string]int64{"Key Requests per Day": 1, "Key Tokens per Day": 3, "Key ConcurrentRequests": 0}
	if diff := cmp.Diff(want, s.used(t, chat("sk-alice"))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

// FuzzUsage lets a provider report anything, over any protocol, and wants what is charged to be what a request can cost.
func FuzzUsage(f *testing.F) {
	f.Add("openai-chat", "5", "6", "", "", int64(300), true, "text/event-stream", int64(200))
	f.Add("anthropic", "1e300", "-1", "7", "9007199254740993", int64(1<<40), false, "application/json", int64(0))
	f.Add("gemini", "NaN", "0x10", "1e9", "+Inf", int64(-5), true, "", int64(503))
	f.Fuzz(func(t *testing.T, protocol, input, output, partialInput, partialOutput string, bytes int64, stream bool, kind string, code int64) {
		s := serve(t, oneTier("{rates: [{metric: Tokens, per: Day, max: 9007199254740991}], concurrency: {max: 1}}"))
		r := chat("sk-alice")
		r.Protocol, r.Stream, r.InputBytes = descriptor.Protocol(protocol), stream, 1000
		d := s.pass(t, r)
		told := descriptor.DecodeSettle(pairsOf(descriptor.KeyInputTokens, input, descriptor.KeyOutputTokens, output,
			descriptor.KeyPartialInput, partialInput, descriptor.KeyPartialOutput, partialOutput))
		told.Code, told.OutputBytes, told.ResponseType = code, max(bytes, 0), kind
		s.end(t, d, told)
		used := s.used(t, chat("sk-alice"))
		// Nothing that is reported is more than 2^30 of each kind, and nothing is estimated beyond a token for each byte.
		if got, most := used["Key Tokens per Day"], int64(1<<31)+max(bytes, 0)+1000; got < 0 || got > most {
			t.Errorf("%d tokens are charged, want 0 to %d", got, most)
		}
		if got := used["Key ConcurrentRequests"]; got != 0 {
			t.Errorf("%d slots are held after the end", got)
		}
		s.pass(t, r)
	})
}
