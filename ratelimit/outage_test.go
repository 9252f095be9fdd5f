package ratelimit_test

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/outage"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// probed is a store that is out as long as it fails.
type probed struct{ *faultyStore }

// Probe implements outage.Shared.
func (p probed) Probe(context.Context) error { return p.call("Probe", func() error { return nil }) }

// Life implements outage.Shared: it never forgets.
func (probed) Life(context.Context) (string, error) { return "one", nil }

// Restore implements outage.Shared.
func (probed) Restore(context.Context, time.Time, []counter.Limit, []counter.Count) error { return nil }

// serveOutages serves by a store that is out as soon as a call to it fails.
func serveOutages(t *testing.T, text string, replicas int, fails func(int64, string) fault) *service {
	t.Helper()
	s, store := serveFaulty(t, text, fails)
	out := outage.New(t.Context(), probed{store}, outage.Options{Replicas: func() int { return replicas }, Clock: s.clock.now, Log: slog.New(slog.DiscardHandler)})
	s.Limiter = ratelimit.New(out.LocalShare(), secret, ratelimit.WithClock(s.clock.now), ratelimit.WithOutages(func(how policy.StoreOut) counter.Store {
		return map[policy.StoreOut]counter.Store{
			policy.StoreOutLocalShare: out.LocalShare(), policy.StoreOutAllow: out.Allow(), policy.StoreOutDeny: out.Deny(),
		}[how]
	}, func() bool { return out.Stats().Out }))
	s.SetTable(s.table)
	return s
}

// atGateway is a request of one key.
func atGateway(name string) *descriptor.Reserve {
	return with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Gateway = name })
}

func TestAGatewaySaysWhatAnOutageOfTheStoreCosts(t *testing.T) {
	t.Parallel()
	s := serveOutages(t, `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Hour, max: 20}]}}}
gateways:
  team/share: {}
  team/allow: {failure: {whenStoreUnavailable: Allow}}
  team/deny: {failure: {whenStoreUnavailable: Deny}}
`, 4, func(int64, string) fault { return before })
	for range 5 {
		s.pass(t, atGateway("team/share"))
	}
	s.refuse(t, atGateway("team/share"), http.StatusTooManyRequests)
	for range 30 {
		s.pass(t, atGateway("team/allow"))
	}
	d := s.refuse(t, atGateway("team/deny"), http.StatusServiceUnavailable)
	if got := headersOf(t, d)["Retry-After"]; got == "" || got == "0" {
		t.Errorf("the refusal says Retry-After %q, want some seconds", got)
	}
}

// TestWhoWaitsWhenTheStoreGoesOutIsRefusedWhereThatIsDenied, and goes on elsewhere.
func TestWhoWaitsWhenTheStoreGoesOutIsRefusedWhereThatIsDenied(t *testing.T) {
	t.Parallel()
	for gateway, want := range map[string]visit{
		"team/share": {},
		"team/allow": {},
		"team/deny":  {status: http.StatusServiceUnavailable, code: "rate_limit_store_unavailable"},
	} {
		t.Run(gateway, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var out atomic.Bool
				h := &hall{t: t, service: serveOutages(t, `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Day, max: 100}]}, queue: {mode: Wait, maxWaitSeconds: 60}}}
models: {gpt: {models: ["gpt-*"], capacity: {concurrentRequests: 1, queue: {maxLength: 9, maxWaitSeconds: 60}}}}
gateways:
  team/share: {}
  team/allow: {failure: {whenStoreUnavailable: Allow}}
  team/deny: {failure: {whenStoreUnavailable: Deny}}
`, 2, func(int64, string) fault {
					if out.Load() {
						return before
					}
					return sound
				})}
				h.pass(t, atGateway("team/share"))
				h.visit(t.Context(), atGateway(gateway), 0)
				synctest.Wait()
				out.Store(true)
				pause(lookedAgain)
				h.all.Wait()
				got := h.last()
				if got.status != want.status || got.code != want.code || got.served.Sub(got.arrived) > time.Second {
					t.Errorf("it got %d %q after %v, want %d %q at once", got.status, got.code, got.served.Sub(got.arrived), want.status, want.code)
				}
				pause(lookedAgain)
			})
		})
	}
}
