package redis_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
)

// TestWhatABatchCountsIsWhatItsCallsAreTold while the memory is full now and then and the script is forgotten: some calls of a batch are
// made and others not, and each is told what became of it.
func TestWhatABatchCountsIsWhatItsCallsAreTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, redis.Options{Addresses: []string{server.Addr}})
	rate, slot := some("rate", counter.Month, 1<<40), some("slot", counter.InUse, 1<<40)
	set := s.Open([]counter.Limit{rate, slot})
	var want, held, refused atomic.Int64
	call := func() {
		lease := newLease()
		_, err := set.Acquire(t.Context(), noon, lease, noon.Add(time.Minute), []int64{1, 1}, make([]counter.Count, 2))
		if err != nil {
			refused.Add(1)
			return
		}
		want.Add(1)
		held.Add(1)
		err = s.Settle(t.Context(), noon, counter.Settlement{Lease: lease, Taken: noon, Charges: []counter.Charge{
			{Key: rate.Key, Window: rate.Window, Charged: 1, Used: 3}, {Key: slot.Key, Window: slot.Window},
		}})
		switch {
		case err == nil:
			want.Add(2)
			held.Add(-1)
		case !errors.Is(err, counter.ErrNotDone):
			t.Error(err)
		}
	}
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 40 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					call()
				}
			}
		})
	}
	for range 20 {
		server.Do("script", "flush")
		server.Do("config", "set", "maxmemory", "1")
		server.Do("config", "set", "maxmemory", "0")
	}
	close(stop)
	callers.Wait()
	if got := usedOf(t, s, noon, rate); got != want.Load() {
		t.Errorf("%d are counted, want %d", got, want.Load())
	}
	if got := usedOf(t, s, noon, slot); got != held.Load() {
		t.Errorf("%d slots are held, want %d", got, held.Load())
	}
	if want.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d are counted and %d were refused: nothing was tried", want.Load(), refused.Load())
	}
}

// TestAsManyCountersAsCanBeGoTogether, beside calls of few, though they are too many for a batch.
func TestAsManyCountersAsCanBeGoTogether(t *testing.T) {
	t.Parallel()
	const many = 255
	s := open(t, redis.Options{Addresses: []string{redistest.Start(t).Addr}})
	limits, keys := make([]counter.Limit, many), make([]counter.Key, many)
	for i := range many {
		limits[i] = some(fmt.Sprint("slot", i), counter.InUse, 10)
		keys[i] = limits[i].Key
	}
	rate := some("rate", counter.Month, 1000)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			if i%2 == 0 {
				acquire(t, s, noon, rate)
				return
			}
			end := counter.Settlement{Lease: newLease(), Taken: noon}
			for _, key := range keys {
				end.Charges = append(end.Charges, counter.Charge{Key: key, Window: counter.InUse})
			}
			if err := s.Renew(t.Context(), noon, end.Lease, keys, noon.Add(time.Minute)); err != nil {
				t.Error(err)
			}
			if n := usedOf(t, s, noon, limits[many-1]); n < 1 {
				t.Errorf("%d slots are held, want one at least", n)
			}
			if err := s.Settle(t.Context(), noon, end); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	counts := make([]counter.Count, many)
	if err := s.Peek(t.Context(), noon, limits, counts); err != nil {
		t.Fatal(err)
	}
	for i, c := range counts {
		if c.Used != 0 {
			t.Errorf("counter %d holds %d slots that were given back", i, c.Used)
		}
	}
	if n := usedOf(t, s, noon, rate); n != 8 {
		t.Errorf("%d are counted, want 8", n)
	}
}
