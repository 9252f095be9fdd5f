package ratelimit_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

const twoAtOnce = "{concurrency: {max: 2}}"

var done = descriptor.Settle{Code: 200}

func TestTheThirdOfTwoIsRefusedUntilOneEnds(t *testing.T) {
	t.Parallel()
	for name, free := range map[string]func(*testing.T, *service, ratelimit.Decision){
		"it ends": func(t *testing.T, s *service, d ratelimit.Decision) { t.Helper(); s.end(t, d, done) },
		"its upstream fails": func(t *testing.T, s *service, d ratelimit.Decision) {
			t.Helper()
			s.end(t, d, descriptor.Settle{Code: 503})
		},
		"its client goes away": func(t *testing.T, s *service, d ratelimit.Decision) { t.Helper(); s.end(t, d, descriptor.Settle{}) },
		"it gives no sign of life": func(t *testing.T, s *service, _ ratelimit.Decision) {
			t.Helper()
			s.clock.advance(ratelimit.SlotExpiry - time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, oneTier(twoAtOnce))
			first := s.pass(t, chat("sk-alice"))
			s.clock.advance(time.Second)
			s.pass(t, chat("sk-alice"))
			s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
			free(t, s, first)
			s.pass(t, chat("sk-alice"))
			s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
		})
	}
}

func TestASlotExpiresNoSooner(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{concurrency: {max: 1}}"))
	s.pass(t, chat("sk-alice"))
	s.clock.advance(ratelimit.SlotExpiry - 1)
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
	s.clock.advance(1)
	s.pass(t, chat("sk-alice"))
}

func (s *service) renew(t testing.TB, d ratelimit.Decision) {
	t.Helper()
	if err := s.Renew(t.Context(), d.Lease); err != nil {
		t.Fatalf("renewing: %v", err)
	}
}

func TestASignOfLifeKeepsTheSlot(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{concurrency: {max: 1}, rates: [{metric: Requests, per: Day, max: 5}]}"))
	long := s.pass(t, chat("sk-alice"))
	for range 20 {
		s.clock.advance(10 * time.Second)
		s.renew(t, long)
		s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
	}
	s.clock.advance(ratelimit.SlotExpiry - 1)
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
	want := map[string]int64{"Key ConcurrentRequests": 1, "Key Requests per Day": 1}
	if diff := cmp.Diff(want, s.used(t, chat("sk-alice"))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	s.clock.advance(1)
	s.pass(t, chat("sk-alice"))
}

func TestASignOfLifeAfterTheEndTakesNothing(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{concurrency: {max: 1}}"))
	ended := s.pass(t, chat("sk-alice"))
	s.end(t, ended, done)
	s.renew(t, ended)
	s.clock.advance(10 * time.Second)
	s.renew(t, ended)
	s.pass(t, chat("sk-alice"))
}

// A request that was thought dead and gives a sign of life is there, whatever was counted.
func TestALateSignOfLifeTakesTheSlotAgain(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{concurrency: {max: 1}}"))
	late := s.pass(t, chat("sk-alice"))
	s.clock.advance(ratelimit.SlotExpiry)
	other := s.pass(t, chat("sk-alice"))
	s.renew(t, late)
	s.end(t, other, done)
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
	s.end(t, late, done)
	s.pass(t, chat("sk-alice"))
}

func TestASignOfLifeLeavesRatesAlone(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{rates: [{metric: Tokens, per: Second, max: 100}], concurrency: {max: 2}}"))
	long := s.pass(t, outputOf(100))
	for range 20 { // The second is over, and forgotten, while the request goes on.
		s.clock.advance(10 * time.Second)
		s.store.Sweep(s.clock.now())
		s.renew(t, long)
	}
	s.pass(t, outputOf(60))
	want := map[string]int64{"Key Tokens per Second": 60, "Key ConcurrentRequests": 2}
	if diff := cmp.Diff(want, s.used(t, outputOf(1))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

func TestASlotIsFreedAlsoAfterTheWindowsOfItsRequest(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{concurrency: {max: 1}, rates: [{metric: Tokens, per: Second, max: 100}]}"))
	d := s.pass(t, chat("sk-alice"))
	s.clock.advance(30 * time.Second)
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
	s.end(t, d, done)
	s.pass(t, chat("sk-alice"))
}

func TestSlotsOfAModelAreSharedByAllKeys(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {plan: {}}
models: {large: {models: [gpt-5], shared: {concurrency: {max: 1}}}}
quotas: {team/alice: {tierRef: {name: plan}}, team/bob: {tierRef: {name: plan}}}
`)
	d := s.pass(t, chat("sk-alice"))
	s.refuse(t, chat("sk-bob"), http.StatusTooManyRequests)
	s.pass(t, with(chat("sk-bob"), func(r *descriptor.Reserve) { r.Model = "gpt-4" }))
	s.end(t, d, done)
	s.pass(t, chat("sk-bob"))
}
