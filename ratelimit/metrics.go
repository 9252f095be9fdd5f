package ratelimit

import (
	"context"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	tokensPerByte = prometheus.NewDesc("tierkeeper_input_tokens_per_byte",
		"How many tokens a byte of a request for the model is taken for when it reserves.", []string{"model"}, nil)
	estimatedInput = prometheus.NewDesc("tierkeeper_estimated_input_tokens_total",
		"Input tokens that were reserved for requests whose provider reported its input.", []string{"model"}, nil)
	reportedInput = prometheus.NewDesc("tierkeeper_reported_input_tokens_total",
		"Input tokens that providers reported for the same requests. The difference is the error of the estimate.", []string{"model"}, nil)
)

var (
	abuseBlocks = prometheus.NewDesc("tierkeeper_abuse_blocks",
		"ApiKeyQuotas and client addresses that are blocked at the gateway now, because they failed too often.", []string{"gateway"}, nil)
	abuseBlocksTotal = prometheus.NewDesc("tierkeeper_abuse_blocks_total",
		"Blocks that began at the gateway.", []string{"gateway"}, nil)
	abuseFailuresTotal = prometheus.NewDesc("tierkeeper_abuse_failures_total",
		"Unsuccessful responses of the gateway that counted towards a block. Those during a block do not.", []string{"gateway"}, nil)
)

func newEstimateError() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "tierkeeper_input_estimate_ratio",
		Help:    "Input tokens that were reserved for a request, divided by those that its provider reported. 1 is exact.",
		Buckets: []float64{0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 4},
	})
}

// Describe and Collect make a Limiter a prometheus.Collector. Models are those that objects name, at most 1,000 of them; the
// rest together are "other". Gateways are those that protect themselves.
func (l *Limiter) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(l, ch) }

// Collect implements prometheus.Collector.
func (l *Limiter) Collect(ch chan<- prometheus.Metric) {
	l.ratios.errors.Collect(ch)
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
		ch <- prometheus.MustNewConstMetric(abuseBlocksTotal, prometheus.CounterValue, float64(g.tally.blocks.Load()), g.name)
		ch <- prometheus.MustNewConstMetric(abuseFailuresTotal, prometheus.CounterValue, float64(g.tally.failures.Load()), g.name)
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
