package ratelimit_test

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
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

func TestAGatewaySaysWhatAnOutageOfTheStoreCosts(t *testing.T) {
	t.Parallel()
	s, store := serveFaulty(t, `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Hour, max: 20}]}}}
gateways:
  team/share: {}
  team/allow: {failure: {whenStoreUnavailable: Allow}}
  team/deny: {failure: {whenStoreUnavailable: Deny}}
`, func(int64, string) fault { return before })
	out := outage.New(t.Context(), probed{store}, outage.Options{Replicas: func() int { return 4 }, Clock: s.clock.now, Log: slog.New(slog.DiscardHandler)})
	s.Limiter = ratelimit.New(out.LocalShare(), secret, ratelimit.WithClock(s.clock.now), ratelimit.WithOutages(func(how policy.StoreOut) counter.Store {
		return map[policy.StoreOut]counter.Store{
			policy.StoreOutLocalShare: out.LocalShare(), policy.StoreOutAllow: out.Allow(), policy.StoreOutDeny: out.Deny(),
		}[how]
	}))
	s.SetTable(s.table)
	at := func(gateway string) *descriptor.Reserve {
		return with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Gateway = gateway })
	}
	for range 5 {
		s.pass(t, at("team/share"))
	}
	s.refuse(t, at("team/share"), http.StatusTooManyRequests)
	for range 30 {
		s.pass(t, at("team/allow"))
	}
	d := s.refuse(t, at("team/deny"), http.StatusServiceUnavailable)
	if got := headersOf(t, d)["Retry-After"]; got == "" || got == "0" {
		t.Errorf("the refusal says Retry-After %q, want some seconds", got)
	}
}
