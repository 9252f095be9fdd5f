package ratelimit

import (
	"hash/fnv"
	"math"
	"sync/atomic"

	"github.com/puzpuzpuz/xsync/v4"
)

// How many tokens a byte of a request is taken for: at first as many as in English text, then what the model's requests
// turned out to have, within bounds that neither pictures, which are many bytes and few tokens, nor a client who wants
// others to be charged more can leave.
const (
	ratioFirst   = 0.25
	ratioFloor   = 0.1
	ratioCeiling = 0.5

	ratioPrior  = 8   // requests for which the first value stands
	ratioMemory = 128 // requests after which an older one counts a third
	ratioBytes  = 256 // a smaller request teaches nothing: it is all envelope
)

// maxRatios bounds what is learned apart. Names come from objects, never from clients alone.
const maxRatios = 1000

// otherModels is what models are called that have no ratio of their own, in metrics.
const otherModels = "other"

// A modelID names a model in a lease.
type modelID uint32

// ratios are the tokens per byte of each model that any object names, learned from settled requests. They are safe for
// concurrent use, outlive tables, and start afresh with the process.
type ratios struct {
	byModel *xsync.Map[modelID, *ratio]
	other   *ratio
}

// A ratio is the tokens per byte of one model's requests.
type ratio struct {
	model string
	id    modelID
	bits  atomic.Uint64 // of a float64
	seen  atomic.Int64  // requests that were learned from

	// Sums over the requests that were learned from, in tokens of input.
	estimated, reported atomic.Int64
}

func newRatios() *ratios {
	return &ratios{byModel: xsync.NewMap[modelID, *ratio](), other: newRatio(otherModels)}
}

func newRatio(model string) *ratio {
	h := fnv.New32a()
	_, _ = h.Write([]byte(model)) // A hash never fails.
	r := &ratio{model: model, id: modelID(h.Sum32())}
	r.bits.Store(math.Float64bits(ratioFirst))
	return r
}

// of finds the ratio of a model by its canonical name.
func (rs *ratios) of(model string) *ratio {
	if model == "" {
		return rs.other
	}
	fresh := newRatio(model)
	if known, ok := rs.byModel.Load(fresh.id); ok {
		return known
	}
	if rs.byModel.Size() >= maxRatios {
		return rs.other
	}
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

func (r *ratio) value() float64 { return math.Float64frombits(r.bits.Load()) }

// tokens estimates the tokens in a body of so many bytes.
func (r *ratio) tokens(bytes int64) int64 { return int64(math.Ceil(float64(bytes) * r.value())) }

// learn takes in what a request that was estimated turned out to have. Two at once may each overwrite what the other taught.
func (r *ratio) learn(bytes, estimated, reported int64) {
	if bytes < ratioBytes || reported <= 0 {
		return
	}
	r.estimated.Add(estimated)
	r.reported.Add(reported)
	sample := min(max(float64(reported)/float64(bytes), ratioFloor), ratioCeiling)
	n := min(r.seen.Add(1)+ratioPrior, ratioMemory)
	old := r.value()
	r.bits.Store(math.Float64bits(old + (sample-old)/float64(n)))
}
