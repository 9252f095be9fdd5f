package ratelimit

import (
	"hash/fnv"
	"math"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// How many tokens a byte of a request is taken for: at first as many as in English text, then what the model's requests
// turned out to have, within bounds that neither pictures, which are many bytes and few tokens, nor a client who wants
// others to be charged more can leave.
const (
	inputFirst   = 0.25
	inputFloor   = 0.1
	inputCeiling = 0.5
	inputBytes   = 256 // a smaller request teaches nothing: it is all envelope
)

// How many tokens a byte of a stream is taken for: at first as many as where each event brings one, then what the model's
// streams turned out to have. Several may come in one event.
const (
	outputFloor   = 0.5     // of the first value
	outputCeiling = 1 / 4.0 // as in text without events
	outputTokens  = 16      // a shorter stream teaches nothing
)

const (
	averagePrior  = 8   // samples for which the first value stands
	averageMemory = 128 // samples after which an older one counts a third
)

// An average moves with its samples. It is safe for concurrent use: of two samples at once one may be lost.
type average struct {
	bits atomic.Uint64 // of a float64; without meaning until there was a sample
	seen atomic.Int64
}

func (a *average) value(first float64) float64 {
	if a.seen.Load() == 0 {
		return first
	}
	return math.Float64frombits(a.bits.Load())
}

func (a *average) learn(first, sample, floor, ceiling float64) {
	old := a.value(first)
	// No sample pulls by more than the average is worth, so that it stays near what most have: a few streams with much hidden
	// reasoning must not make everybody's cost as much.
	sample = min(max(sample, floor, old/2), ceiling, 2*old)
	n := min(a.seen.Load()+averagePrior+1, averageMemory)
	a.bits.Store(math.Float64bits(old + (sample-old)/float64(n)))
	a.seen.Add(1)
}

// maxRatios bounds what is learned apart. Names come from objects, never from clients alone.
const maxRatios = 1000

// otherModels is what models are called, in metrics, that have no ratio of their own.
const otherModels = "other"

// A modelID names a model in a lease.
type modelID uint32

// ratios are the tokens per byte of each model that any object names, learned from settled requests. They are safe for
// concurrent use, outlive tables, and start afresh with the process.
type ratios struct {
	byModel *xsync.Map[modelID, *ratio]
	other   *ratio
	errors  prometheus.Histogram
}

// A ratio is the tokens per byte of one model's requests and, by protocol, of its streams.
type ratio struct {
	model  string
	id     modelID
	input  average
	output [len(protocolCodes)]average

	// Sums over the requests that were learned from, in tokens of input.
	estimated, reported atomic.Int64
}

func newRatios() *ratios {
	return &ratios{byModel: xsync.NewMap[modelID, *ratio](), other: newRatio(otherModels), errors: newEstimateError()}
}

func newRatio(model string) *ratio { return &ratio{model: model, id: idOf(model)} }

func idOf(model string) modelID {
	h := fnv.New32a()
	_, _ = h.Write([]byte(model)) // A hash never fails.
	return modelID(h.Sum32())
}

// of finds the ratio of a model by its canonical name.
func (rs *ratios) of(model string) *ratio {
	if model == "" {
		return rs.other
	}
	if known, ok := rs.byModel.Load(idOf(model)); ok {
		return known
	}
	if rs.byModel.Size() >= maxRatios {
		return rs.other
	}
	fresh := newRatio(model)
	r, _ := rs.byModel.LoadOrStore(fresh.id, fresh)
	return r
}

// find finds the ratio by what a lease says.
func (rs *ratios) find(id modelID) *ratio {
	if r, ok := rs.byModel.Load(id); ok {
		return r
	}
	return rs.other
}

// inputTokens estimates the tokens in a request of so many bytes.
func (r *ratio) inputTokens(bytes int64) int64 {
	return int64(math.Ceil(float64(bytes) * r.input.value(inputFirst)))
}

// outputTokens estimates the tokens in a stream of so many bytes.
func (r *ratio) outputTokens(p descriptor.Protocol, bytes int64) int64 {
	f := forms[p]
	return int64(math.Ceil(max(0, float64(bytes)-f.envelope) * r.output[codeOf(p)].value(1/f.perToken)))
}

// learn takes in what the provider reported of a request for the model of r.
func (rs *ratios) learn(r *ratio, s *descriptor.Settle, l *lease, cost *Spent) {
	f := forms[l.protocol]
	// What comes from a cache need not stand in the request: it may name what it sent earlier.
	if !cost.InputEstimated && !f.unread && l.inputBytes >= inputBytes && cost.Input > 0 && cost.Cached == 0 {
		rs.errors.Observe(float64(l.amounts.input) / float64(cost.Input))
		r.estimated.Add(l.amounts.input)
		r.reported.Add(cost.Input)
		r.input.learn(inputFirst, float64(cost.Input)/float64(l.inputBytes), inputFloor, inputCeiling)
	}
	// Of reasoning nobody knows how much of it is in the stream: whoever lets a model think much and say little would make
	// the streams of others cost many times as much.
	if f.perToken > 0 && l.streamed(s) && s.Reported.Output >= outputTokens && s.Thoughts == 0 {
		bytes := max(1, float64(s.OutputBytes)-f.envelope)
		r.output[codeOf(l.protocol)].learn(1/f.perToken, float64(s.Reported.Output)/bytes, outputFloor/f.perToken, outputCeiling)
	}
}
