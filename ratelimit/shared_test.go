package ratelimit_test

import (
	"testing"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// A key of a small plan that names a huge maximum may not hold what everybody shares.
func TestOneRequestHoldsNoMoreOfASharedLimitThanItsKeyMayUse(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {plan: {limits: {rates: [{metric: Tokens, per: Minute, max: 100}]}}}
users: {team/ann: {user: ann, limits: {rates: [{metric: Tokens, per: Day, max: 500}]}}}
quotas: {team/alice: {tierRef: {name: plan}, user: ann}}
models: {big: {models: [gpt-5], shared: {rates: [{metric: Tokens, per: Day, max: 1000}]}}}
`)
	huge := with(chat("sk-alice"), func(r *descriptor.Reserve) { r.MaxOutput = 5000 })
	d := s.pass(t, huge)
	for name, used := range s.used(t, huge) {
		if used != 100 {
			t.Errorf("%s: %d are reserved, want 100", name, used)
		}
	}
	s.end(t, d, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: 1, Output: 300}})
	for name, used := range s.used(t, huge) {
		if used != 301 {
			t.Errorf("%s: %d are charged, want the truth, 301", name, used)
		}
	}
}
