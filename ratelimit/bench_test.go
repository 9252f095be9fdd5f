package ratelimit_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// benchKeys is the number of keys that send, so many that what belongs to one is in no cache when its next request comes. At one
// request in benchStep the slot of a key's last one has expired by then, so that nothing grows.
const (
	benchKeys = 10_000
	benchStep = 3600 * time.Microsecond
)

// sevenLimits are six rates, two of which all keys share, and a concurrency limit.
func sevenLimits(model string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
tiers: {plan: {limits: {concurrency: {max: 20}, rates: [
  {metric: Requests, per: Minute, max: 1000000000}, {metric: Tokens, per: Minute, max: 1000000000000},
  {metric: Requests, per: Day, max: 1000000000}, {metric: Tokens, per: Day, max: 1000000000000}]}}}
models: {large: {models: [%q], shared: {rates: [
  {metric: Requests, per: Minute, max: 1000000000}, {metric: Tokens, per: Minute, max: 1000000000000}]}}}
quotas:
`, model)
	for i := range benchKeys {
		fmt.Fprintf(&b, "  team/%d: {tierRef: {name: plan}}\n", i)
	}
	return b.String()
}

// A load is a limiter and the requests that its keys send in turn.
type load struct {
	*ratelimit.Limiter

	credentials []*policy.Credential
	digests     []policy.Digest
	requests    []*descriptor.Reserve
	steps       atomic.Int64
}

// protected makes the gateway of newLoad protect itself.
const protected = `gateway: {abuseProtection: {exemptCIDRs: [10.0.0.0/8]}}`

func newLoad(tb testing.TB, model string, more ...string) *load {
	tb.Helper()
	l := &load{}
	l.Limiter = ratelimit.New(memory.New(), secret, ratelimit.WithFailures(memory.NewFailures()), ratelimit.WithClock(func() time.Time {
		return start.Add(time.Duration(l.steps.Add(1)) * benchStep)
	}))
	table := compile(tb, sevenLimits(model)+strings.Join(more, ""), nil)
	l.SetTable(table)
	for i := range benchKeys {
		request := chat(fmt.Sprintf("sk-%d", i))
		request.InputBytes, request.MaxOutput = 2000, 500
		l.requests = append(l.requests, request)
		digest := policy.HashKey([]byte(keyIn(request)))
		credential, known := table.Lookup(digest)
		if !known {
			tb.Fatal("a key is unknown")
		}
		l.credentials, l.digests = append(l.credentials, credential), append(l.digests, digest)
		if n := len(table.Resolve(nil, credential.Holder, request.Model, request.Resource).Limits); n != 7 {
			tb.Fatalf("a request meets %d limits, want 7", n)
		}
	}
	for i := range 3 * benchKeys {
		l.reserve(tb, i)
	}
	return l
}

func (l *load) reserve(tb testing.TB, i int) ratelimit.Decision {
	d, err := l.Reserve(tb.Context(), l.requests[i%benchKeys])
	if err != nil || d.Status != 0 {
		tb.Fatalf("got %+v and error %v", d, err)
	}
	return d
}

func (l *load) decide(tb testing.TB, d *ratelimit.Decider, i int) {
	ok, err := d.Decide(tb.Context(), l.credentials[i%benchKeys], l.digests[i%benchKeys], l.requests[i%benchKeys])
	if err != nil || !ok {
		tb.Fatalf("admitted: %t, error %v", ok, err)
	}
}

// BenchmarkDecision finds the plan of a request, whose limits are resolved, and takes six rates and a slot.
func BenchmarkDecision(b *testing.B) {
	for _, bench := range []struct{ name, model string }{{"exact", "gpt-5"}, {"pattern", "gpt-*"}} {
		b.Run(bench.name, func(b *testing.B) {
			l := newLoad(b, bench.model)
			b.ReportAllocs()
			d := ratelimit.NewDecider(l.Limiter)
			for i := 0; b.Loop(); i++ {
				l.decide(b, d, i)
			}
		})
		b.Run(bench.name+"/parallel", func(b *testing.B) {
			l := newLoad(b, bench.model)
			b.ReportAllocs()
			var senders atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				d := ratelimit.NewDecider(l.Limiter)
				for i := int(senders.Add(benchKeys / 2)); pb.Next(); i++ {
					l.decide(b, d, i)
				}
			})
		})
	}
}

// A gateway that protects itself makes requests pay for it with no garbage, but for a longer lease.
func TestProtectionAllocatesNothing(t *testing.T) {
	allocs := func(more string) float64 {
		l, i := newLoad(t, "gpt-5", more), 0
		return testing.AllocsPerRun(2*benchKeys, func() { l.reserve(t, i); i++ })
	}
	if open, guarded := allocs(""), allocs(protected); guarded > open {
		t.Errorf("a reserve makes %v allocations where the gateway protects itself, and %v where it does not", guarded, open)
	}
}

// AllocsPerRun counts what the whole process allocates, so this test runs alone.
func TestADecisionAllocatesNothing(t *testing.T) {
	l := newLoad(t, "gpt-5")
	d := ratelimit.NewDecider(l.Limiter)
	i := 0
	if n := testing.AllocsPerRun(2*benchKeys, func() { l.decide(t, d, i); i++ }); n != 0 {
		t.Errorf("a decision makes %v allocations, want none", n)
	}
}
