package usage_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	counters "github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/usage"
)

// busy is a service all of whose quotas are used all the time.
type busy struct {
	*ratelimit.Limiter
	names []policy.Name
}

func (b busy) Active() []policy.Name { return b.names }

// nothing takes what is written, and knows of nothing that was.
type nothing struct{}

func (nothing) Last(context.Context, func(policy.Object, usage.Status)) error { return nil }
func (nothing) Write(context.Context, policy.Object, usage.Status) error      { return nil }
func (nothing) Reached(usage.Reached)                                         {}

// BenchmarkPass is a pass over 100,000 quotas, all of them in use, and tells how much memory the reporter holds for each.
func BenchmarkPass(b *testing.B) {
	const quotas = 100_000
	var names []string
	for i := range quotas {
		names = append(names, fmt.Sprintf("q%06d: {}", i))
	}
	table := compile(b, `
plan:
  limits: {rates: [{metric: Requests, per: Minute, max: 100}, {metric: Requests, per: Day, max: 1000}, {metric: Tokens, per: Day, max: 1000000}], concurrency: {max: 5}}
  resources: [{resource: chat, limits: {rates: [{metric: Requests, per: Hour, max: 50}]}}]
quotas: {`+strings.Join(names, ", ")+`}`)
	c := &cluster{}
	c.nanos.Store(start.UnixNano())
	l := ratelimit.New(counters.New(), []byte("secret"), ratelimit.WithClock(c.now))
	l.SetTable(table)
	for _, n := range table.Quotas() {
		for range 3 {
			reserve(b, l, n.Name)
		}
	}
	before := heap()
	r := usage.NewReporter(busy{l, table.Quotas()}, nothing{}, nothing{})
	if err := r.Begin(b.Context(), c.now()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c.nanos.Add(int64(time.Second))
		r.Pass(b.Context(), c.now())
	}
	b.ReportMetric(float64(heap()-before)/quotas, "B/quota")
	runtime.KeepAlive(r)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
