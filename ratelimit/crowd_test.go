package ratelimit_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

const (
	crowd     = 1000 // goroutines
	crowdKeys = 20
	perCall   = 30 // tokens that a request reserves
)

// crowded are manifests with crowdKeys keys that share a model.
func crowded(key, shared string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "tiers: {plan: {limits: %s}}\nmodels: {large: {models: [gpt-5], shared: %s}}\nquotas:\n", key, shared)
	for i := range crowdKeys {
		fmt.Fprintf(&b, "  team/%d: {tierRef: {name: plan}}\n", i)
	}
	return b.String()
}

func crowdRequest(key int) *descriptor.Reserve {
	return with(chat(fmt.Sprintf("sk-%d", key)), func(r *descriptor.Reserve) { r.MaxOutput = perCall })
}

// together runs f in a thousand goroutines that all begin at once.
func together(f func(i int)) {
	var all sync.WaitGroup
	begin := make(chan struct{})
	for i := range crowd {
		all.Go(func() {
			<-begin
			f(i)
		})
	}
	close(begin)
	all.Wait()
}

// A thousand goroutines reserve at once, for keys with limits of their own and a model that all share. In whatever order
// they come, a key gets what its limits allow unless the shared limits are full.
func TestOfACrowdExactlyWhatFitsIsAdmitted(t *testing.T) {
	t.Parallel()
	for round := range uint64(8) {
		draw := rand.New(rand.NewPCG(round, 1))
		offered := [crowdKeys]int64{}
		whose := [crowd]int{}
		for i := range whose {
			whose[i] = draw.IntN(1 + draw.IntN(crowdKeys)) // Some keys send far more than others.
			offered[whose[i]]++
		}
		requests, tokens, slots := draw.Int64N(100), draw.Int64N(100*perCall), draw.Int64N(100)
		sharedRequests, sharedTokens := draw.Int64N(crowd), draw.Int64N(crowd*perCall)

		perKey := min(requests, tokens/perCall, slots)
		if tokens < perCall { // A request larger than the limit passes in an empty window.
			perKey = min(requests, 1, slots, tokens)
		}
		shared := min(sharedRequests, sharedTokens/perCall)
		if sharedTokens < perCall {
			shared = min(sharedRequests, 1, sharedTokens)
		}
		want := int64(0)
		for _, n := range offered {
			want += min(n, perKey)
		}
		want = min(want, shared)

		s := serve(t, crowded(
			fmt.Sprintf("{rates: [{metric: Requests, per: Hour, max: %d}, {metric: Tokens, per: Day, max: %d}], concurrency: {max: %d}}", requests, tokens, slots),
			rates(fmt.Sprintf("Requests Minute %d", sharedRequests), fmt.Sprintf("Tokens Hour %d", sharedTokens)),
		))
		var admitted atomic.Int64
		var byKey [crowdKeys]atomic.Int64
		together(func(i int) {
			d, err := s.Reserve(t.Context(), crowdRequest(whose[i]))
			if err != nil {
				t.Errorf("reserving: %v", err)
			}
			if err == nil && d.Status == 0 {
				admitted.Add(1)
				byKey[whose[i]].Add(1)
			}
		})
		if got := admitted.Load(); got != want {
			t.Errorf("round %d: %d requests were admitted, want %d", round, got, want)
		}
		for key := range byKey {
			n := byKey[key].Load()
			got := s.used(t, crowdRequest(key))
			wantUsed := map[string]int64{
				"Key Requests per Hour": n, "Key Tokens per Day": min(n*perCall, tokens), "Key ConcurrentRequests": n,
				"ModelShared Requests per Minute": want, "ModelShared Tokens per Hour": min(want*perCall, sharedTokens),
			}
			if diff := cmp.Diff(wantUsed, got); diff != "" {
				t.Errorf("round %d: counters of key %d (-want +got):\n%s", round, key, diff)
			}
		}
	}
}

// A thousand goroutines reserve and settle again and again. Never are more under way than there are slots, never is more
// admitted than fits, and in the end the counters hold exactly what was used.
func TestACrowdThatSettlesLeavesExactlyWhatWasUsed(t *testing.T) {
	t.Parallel()
	const (
		calls      = 12
		keySlots   = 8
		slots      = 50
		keyTokens  = 6_000
		mostTokens = 80_000
	)
	s := serve(t, crowded(
		fmt.Sprintf("{rates: [{metric: Tokens, per: Day, max: %d}], concurrency: {max: %d}}", keyTokens, keySlots),
		fmt.Sprintf("{rates: [{metric: Tokens, per: Hour, max: %d}], concurrency: {max: %d}}", mostTokens, slots),
	))
	var underWay, admitted, used atomic.Int64
	var ofKey [crowdKeys]struct{ underWay, admitted, used atomic.Int64 }
	together(func(i int) {
		draw := rand.New(rand.NewPCG(uint64(i), 2)) //nolint:gosec // Not negative.
		key := i % crowdKeys
		for range calls {
			d, err := s.Reserve(t.Context(), crowdRequest(key))
			if err != nil {
				t.Errorf("reserving: %v", err)
				return
			}
			if d.Status != 0 {
				continue
			}
			if n := underWay.Add(1); n > slots {
				t.Errorf("%d requests are under way, at most %d may be", n, slots)
			}
			if n := ofKey[key].underWay.Add(1); n > keySlots {
				t.Errorf("%d requests of one key are under way, at most %d may be", n, keySlots)
			}
			cost := 1 + draw.Int64N(perCall)
			used.Add(cost)
			admitted.Add(1)
			ofKey[key].used.Add(cost)
			ofKey[key].admitted.Add(1)
			underWay.Add(-1)
			ofKey[key].underWay.Add(-1)
			if err := s.Settle(t.Context(), &descriptor.Settle{Lease: d.Lease, Code: 200, Reported: descriptor.Usage{Output: cost}}); err != nil {
				t.Errorf("settling: %v", err)
			}
		}
	})
	for key := range ofKey {
		want := map[string]int64{
			"Key Tokens per Day": ofKey[key].used.Load(), "Key ConcurrentRequests": 0,
			"ModelShared Tokens per Hour": used.Load(), "ModelShared ConcurrentRequests": 0,
		}
		if diff := cmp.Diff(want, s.used(t, crowdRequest(key))); diff != "" {
			t.Errorf("counters of key %d (-want +got):\n%s", key, diff)
		}
		if n := ofKey[key].used.Load(); n > keyTokens {
			t.Errorf("key %d used %d tokens, at most %d fit", key, n, keyTokens)
		}
	}
	if used.Load() > mostTokens {
		t.Errorf("%d tokens were used, at most %d fit", used.Load(), mostTokens)
	}
	if n := admitted.Load(); n < crowdKeys*keySlots {
		t.Errorf("only %d requests were admitted, so this shows nothing", n)
	}
	fillsUp(t, s, keyTokens-ofKey[0].used.Load(), mostTokens-used.Load())
}

// fillsUp takes what is left of the first key and expects that it fits to the last request.
func fillsUp(t *testing.T, s *service, ofKey, ofAll int64) {
	t.Helper()
	want := min(ofKey, ofAll) / perCall
	got := int64(0)
	for ; got <= want; got++ {
		d := s.ask(t, crowdRequest(0))
		if d.Status != 0 {
			break
		}
		s.end(t, d, descriptor.Settle{Code: 200, Reported: descriptor.Usage{Output: perCall}})
	}
	if got != want {
		t.Errorf("%d more requests fit, want %d", got, want)
	}
}
