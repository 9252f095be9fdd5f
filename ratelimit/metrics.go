package ratelimit

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/policy"
)

var (
	tokensPerByte = prometheus.NewDesc("tierkeeper_input_tokens_per_byte",
		"How many tokens a byte of a request for the model is taken for when it reserves.", []string{"model"}, nil)
	estimatedInput = prometheus.NewDesc("tierkeeper_estimated_input_tokens_total",
		"Input tokens that were reserved for requests whose provider reported its input.", []string{"model"}, nil)
	reportedInput = prometheus.NewDesc("tierkeeper_reported_input_tokens_total",
		"Input tokens that providers reported for the same requests. The difference is the error of the estimate.", []string{"model"}, nil)

	queueLength = prometheus.NewDesc("tierkeeper_queue_length",
		"Requests that wait for the capacity of a ModelLimit.", []string{"model_limit", "priority"}, nil)
	capacityInUse = prometheus.NewDesc("tierkeeper_capacity_in_use",
		"Requests under way of those that count in the capacity of a ModelLimit.", []string{"model_limit"}, nil)
	queueBytes = prometheus.NewDesc("tierkeeper_queue_body_bytes",
		"Bytes of the bodies of requests that wait, which Envoy holds.", []string{"model_limit"}, nil)

	tallied     = []string{"key", "scope", "metric", "per", "object"}
	deniedTotal = prometheus.NewDesc("tierkeeper_denied_total",
		"Requests that a limit refused, by the key and the object that the limit stands in. Those that are refused most are told apart.", tallied, nil)
	shadowTotal = prometheus.NewDesc("tierkeeper_shadow_denied_total",
		"Requests that a limit would have refused that is not enforced (enforcement: Shadow).", tallied, nil)
)

var (
	abuseBlocks = prometheus.NewDesc("tierkeeper_abuse_blocks",
		"ApiKeyQuotas and client addresses that are blocked at the gateway now, because they failed too often.", []string{"gateway"}, nil)
	abuseBlocksTotal = prometheus.NewDesc("tierkeeper_abuse_blocks_total",
		"Blocks that began at the gateway.", []string{"gateway"}, nil)
	abuseFailuresTotal = prometheus.NewDesc("tierkeeper_abuse_failures_total",
		"Unsuccessful responses of the gateway that counted towards a block. Those during a block do not.", []string{"gateway"}, nil)
)

// callMetrics are those of calls, by what became of them. They are found once, so that a call does not look for them.
type callMetrics struct {
	seconds *prometheus.HistogramVec

	admitted, refused, gone, failed prometheus.Observer // of reserves
	settled, dropped                prometheus.Observer // of settles
}

func newCallMetrics() *callMetrics {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "tierkeeper_call_seconds",
		Help:    "How long it took to answer Envoy, by what it asked and what became of it: a reserve was admitted or refused, its caller was gone before, or it failed because the store did; a settle was settled, or dropped. What a request waits for the capacity of a ModelLimit is part of its reserve.",
		Buckets: []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10, 60},
	}, []string{"call", "outcome"})
	return &callMetrics{
		seconds:  seconds,
		admitted: seconds.WithLabelValues("reserve", "admitted"), refused: seconds.WithLabelValues("reserve", "refused"),
		gone: seconds.WithLabelValues("reserve", "gone"), failed: seconds.WithLabelValues("reserve", "failed"),
		settled: seconds.WithLabelValues("settle", "settled"), dropped: seconds.WithLabelValues("settle", "dropped"),
	}
}

func newEstimateError() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "tierkeeper_input_estimate_ratio",
		Help:    "Input tokens that were reserved for a request, divided by those that its provider reported. 1 is exact.",
		Buckets: []float64{0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 4},
	})
}

// Describe and Collect make a Limiter a prometheus.Collector. Models are those that objects name, at most 1,000 of them; the
// rest together are "other". Gateways are those that protect themselves.
func (l *Limiter) Describe(ch chan<- *prometheus.Desc) {
	l.queues.metrics.waits.Describe(ch) // The first wait may end between Describe and Collect.
	prometheus.DescribeByCollect(l, ch)
}

// Collect implements prometheus.Collector.
func (l *Limiter) Collect(ch chan<- prometheus.Metric) {
	l.calls.seconds.Collect(ch)
	l.ratios.errors.Collect(ch)
	l.misuses.counts.Collect(ch)
	l.queues.Collect(ch)
	collectRefusals(ch, deniedTotal, l.denied)
	collectRefusals(ch, shadowTotal, l.shadows.metric)
	for _, r := range l.ratios.list() {
		ch <- prometheus.MustNewConstMetric(tokensPerByte, prometheus.GaugeValue, r.input.value(inputFirst), r.model)
		ch <- prometheus.MustNewConstMetric(estimatedInput, prometheus.CounterValue, float64(r.estimated.Load()), r.model)
		ch <- prometheus.MustNewConstMetric(reportedInput, prometheus.CounterValue, float64(r.reported.Load()), r.model)
	}
	l.collectAbuse(ch)
}

// collectAbuse leaves the number of blocks out where the store cannot tell.
func (l *Limiter) collectAbuse(ch chan<- prometheus.Metric) {
	e := l.epoch.Load()
	if e == nil {
		return
	}
	blocked, err := l.blocked(context.Background()) //nolint:forbidigo // Collect is given none.
	for id, g := range e.guards.byID {
		if err == nil {
			ch <- prometheus.MustNewConstMetric(abuseBlocks, prometheus.GaugeValue, float64(blocked[id]), g.name)
		}
		ch <- prometheus.MustNewConstMetric(abuseBlocksTotal, prometheus.CounterValue, float64(g.count.blocks.Load()), g.name)
		ch <- prometheus.MustNewConstMetric(abuseFailuresTotal, prometheus.CounterValue, float64(g.count.failures.Load()), g.name)
	}
}

// blocked counts the blocks in force at each gateway.
func (l *Limiter) blocked(ctx context.Context) (map[gatewayID]int, error) {
	if l.failures == nil {
		return nil, nil
	}
	all, err := l.failures.Blocks(ctx, l.clock())
	n := map[gatewayID]int{}
	for _, b := range all {
		n[gatewayOf(b.Subject)]++
	}
	return n, err //nolint:wrapcheck // The only caller does not look at it.
}

// list lists the ratios that were learned from.
func (rs *ratios) list() []*ratio {
	all := []*ratio{rs.other}
	for _, r := range rs.byModel.All() {
		all = append(all, r)
	}
	return slices.DeleteFunc(all, func(r *ratio) bool { return r.input.seen.Load() == 0 })
}

// queueMetrics are those of all queues. Models' names come from objects, so they are few.
type queueMetrics struct{ waits *prometheus.HistogramVec }

func newQueueMetrics() *queueMetrics {
	return &queueMetrics{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "tierkeeper_queue_wait_seconds",
		Help:    "How long requests waited for the capacity of a ModelLimit, by how the wait ended: released, timeout, gone (the client), full (no place, or another key got it that had fewer), or without a wait: refused (its tier may not wait).",
		Buckets: []float64{0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300},
	}, []string{"model_limit", "outcome"})}
}

func (m *queueMetrics) ended(group string, why outcome, wait time.Duration) {
	m.waits.WithLabelValues(group, string(why)).Observe(wait.Seconds())
}

// Collect writes the metrics of all queues.
func (qs *queues) Collect(ch chan<- prometheus.Metric) {
	qs.metrics.waits.Collect(ch)
	for key, q := range qs.byKey.All() {
		byPriority, bytes := q.lengths()
		for priority, n := range byPriority {
			ch <- prometheus.MustNewConstMetric(queueLength, prometheus.GaugeValue, float64(n), q.group, strconv.Itoa(priority+1))
		}
		ch <- prometheus.MustNewConstMetric(queueBytes, prometheus.GaugeValue, float64(bytes), q.group)
		var inUse [1]counter.Count
		if q.store.Peek(context.Background(), q.clock(), []counter.Limit{{Key: key, Window: counter.InUse}}, inUse[:]) == nil { //nolint:forbidigo // A Collector is given none.
			ch <- prometheus.MustNewConstMetric(capacityInUse, prometheus.GaugeValue, float64(inUse[0].Used), q.group)
		}
	}
}

// lengths counts who waits, by priority from 1 up.
func (q *queue) lengths() (byPriority [policy.HighestPriority]int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for lane, ts := range q.line.lanes {
		for _, t := range ts.heap {
			byPriority[lane.priority-1] += t.waiting.Len()
		}
	}
	return byPriority, q.line.bytes
}

func collectRefusals(ch chan<- prometheus.Metric, desc *prometheus.Desc, r *refusals) {
	tell := func(l labels, n int64) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), l.key, l.scope, l.metric, l.per, l.object)
	}
	if other := r.each(func(l labels, n *named[struct{}]) { tell(l, n.count) }); other > 0 {
		tell(labels{key: otherKeys}, other)
	}
}
