package ratelimit

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/policy"
)

const tenThousand = 10_000

// BenchmarkLineOfTenThousand serves whoever is next of 10,000 who wait, and lets another one come.
func BenchmarkLineOfTenThousand(b *testing.B) {
	for _, keys := range []int{1, 100, tenThousand} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			l, now := newLine(), lineStart
			l.age = 10 * time.Second
			add := func(i int) {
				l.push(&waiter{holder: fmt.Sprint("team/key", i%keys), arrived: now, lane: lane{priority: 1 + i%keys%4}})
			}
			for i := range tenThousand {
				add(i)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				now = now.Add(time.Millisecond)
				w, _ := l.next(now, nobodyEntitled)
				l.serve(w, now)
				add(i)
			}
		})
	}
}

// BenchmarkQueueOfTenThousand has 10,000 goroutines wait for ten slots, and measures the time from one served to the next.
func BenchmarkQueueOfTenThousand(b *testing.B) {
	const slots = 10
	capacity := &policy.Capacity{Group: "gpt", Max: slots, Queue: &policy.Queue{MaxLength: tenThousand, MaxBodyBytes: 1 << 40, MaxWait: time.Hour, Age: 10 * time.Second}}
	l := New(memory.New(), []byte("secret"))
	key := keyOf(policy.Limit{Scope: policy.ScopeModelShared, Subject: "gpt"})
	l.queues.update(map[string]*policy.Capacity{capacity.Group: capacity})
	q := l.queues.of(capacity, key, l)
	ctx, stop := context.WithCancel(b.Context())
	var (
		all    sync.WaitGroup
		served atomic.Int64
		number atomic.Uint64
	)
	want := int64(b.N)
	done := make(chan struct{})
	for i := range tenThousand {
		all.Go(func() {
			for ctx.Err() == nil {
				w := &waiter{
					lease: leaseNumber(number.Add(1)), holder: fmt.Sprint("team/key", i%100), lane: lane{priority: 1 + i%4}, arrived: l.clock(),
					slot: slot{capacity: key}, store: l.store, served: make(chan struct{}),
				}
				if q.wait(ctx, w, capacity.Queue, time.Hour, func() {}) != released {
					return
				}
				if served.Add(1) == want {
					close(done)
				}
				s := counter.Settlement{Lease: w.lease, Taken: w.arrived, Charges: []counter.Charge{{Key: key, Window: counter.InUse}}}
				if err := l.store.Settle(b.Context(), l.clock(), s); err != nil {
					b.Error(err)
				}
				l.queues.freed(s.Charges)
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	<-done
	b.StopTimer()
	stop()
	all.Wait()
}
