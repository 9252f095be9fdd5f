package standalone

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/counter/outage"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/policy"
)

// counters are where an enforcer counts, and what that needs.
type counters struct {
	store    counter.Store
	stores   func(policy.StoreOut) counter.Store // ways to store
	out      func() bool                         // this process counts for itself
	failures interface {
		counter.Failures
		Forgotten() int64
	}
	measures []prometheus.Collector
	run      func(ctx context.Context) // until ctx ends
	close    func()
}

// countAlone counts in the memory of this process, and keeps a file in the data directory.
func countAlone(c *Common) (*counters, error) {
	store, err := memory.Load(filepath.Join(c.DataDir, counterFile), time.Now())
	if err != nil {
		return nil, err
	}
	failures := memory.NewFailures()
	own := &counters{store: store, stores: func(policy.StoreOut) counter.Store { return store }, out: func() bool { return false }, failures: failures}
	flush := func() {
		if err := store.Flush(time.Now()); err != nil {
			c.Log.Error("could not write the counters", "error", err)
		}
	}
	// It waits for nothing else: however long a reload takes, a crash loses no more than a second.
	own.run = func(ctx context.Context) {
		flushes, sweeps := time.NewTicker(flushEvery), time.NewTicker(sweepEvery)
		defer flushes.Stop()
		defer sweeps.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-sweeps.C:
				store.Sweep(now)
				failures.Sweep(now)
			case <-flushes.C:
				flush()
			}
		}
	}
	own.close = func() {
		flush()
		if err := store.Close(); err != nil {
			c.Log.Error("could not close the counter file", "error", err)
		}
	}
	return own, nil
}

// countTogether counts in a Redis that replicas share, and in this process while that is out.
func countTogether(ctx context.Context, c *ServiceConfig) (*counters, error) {
	o := *c.Redis
	o.Log = c.Log
	store, err := redis.New(ctx, o)
	if err != nil {
		return nil, err
	}
	replicas, blocks := store.Join(), store.Failures()
	if err := blocks.Refresh(ctx, time.Now()); err != nil && !errors.Is(err, counter.ErrUnreadable) { // Follow tells of that.
		store.Close()
		return nil, err
	}
	lasting, end := context.WithCancel(context.WithoutCancel(ctx)) // Calls under way when the process is told to stop go on.
	out := outage.New(lasting, store, outage.Options{
		Deadline: c.StoreDeadline, Replicas: replicas.Count, Clock: time.Now, Log: c.Log,
	})
	failures := out.Failures(blocks)
	stores := map[policy.StoreOut]counter.Store{
		policy.StoreOutLocalShare: out.LocalShare(), policy.StoreOutAllow: out.Allow(), policy.StoreOutDeny: out.Deny(),
	}
	shared := &counters{
		store: stores[policy.StoreOutLocalShare], stores: func(s policy.StoreOut) counter.Store { return stores[s] },
		out: func() bool { return out.Stats().Out }, failures: failures, measures: outages(out.Stats, replicas.Count),
	}
	shared.run = func(ctx context.Context) {
		sweeps, reads := time.NewTicker(sweepEvery), time.NewTicker(redis.RefreshEvery)
		defer sweeps.Stop()
		defer reads.Stop()
		var group sync.WaitGroup
		defer group.Wait()
		group.Go(func() { replicas.Run(ctx) })
		group.Go(func() { out.Run(ctx) })
		group.Go(func() { blocks.Follow(ctx, reads.C) })
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-sweeps.C:
				out.Sweep(now)
				failures.Sweep(now)
			}
		}
	}
	shared.close = func() { end(); store.Close() }
	return shared, nil
}

// outages tell how it stands with a store that is shared.
func outages(stats func() outage.Stats, replicas func() int) []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tierkeeper_store_replicas", Help: "Replicas that share the store of the counters, as far as this one knows: an outage is divided among them.",
		}, func() float64 { return float64(replicas()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tierkeeper_store_out", Help: "1 while the store of the counters does not answer, and this replica counts for itself.",
		}, func() float64 {
			if stats().Out {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tierkeeper_store_outages_total", Help: "Times that the store of the counters went out.",
		}, func() float64 { return float64(stats().Outages) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tierkeeper_store_lost_settlements_total",
			Help: "Settlements that came while the store of the counters was out and could not be made up for: what they would have returned stays charged until its window ends.",
		}, func() float64 { return float64(stats().Lost) }),
	}
}
