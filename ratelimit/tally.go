package ratelimit

import (
	"math"
	"math/bits"
	"sync"

	"github.com/tierkeeper/tierkeeper/policy"
)

const (
	// maxNamed is how many combinations of labels a metric tells apart, and maxCandidates how many others it watches.
	maxNamed      = 200
	maxCandidates = 2000
	otherKeys     = "other"
)

// labels says whose requests a limit refused, and which limit.
type labels struct{ key, scope, metric, per, object string }

var otherLabels = labels{key: otherKeys}

func labelsOf(holder string, scope policy.Scope, pair policy.Pair, origin policy.Origin) labels {
	object := policy.Object{Kind: origin.Kind, Name: policy.Name{Namespace: origin.Namespace, Name: origin.Name}}
	return labels{holder, scope.String(), pair.Metric.String(), pair.Per.String(), object.String()}
}

func labelsOfLimit(h *policy.Holder, l *policy.Limit) labels {
	return labelsOf(h.Name, l.Scope, l.Pair, l.Origin)
}

// A tally counts refusals for a metric: those who have most by name, all others together. Whoever is named first stays so
// until somebody else has had twice as many. No count ever falls: who loses his name adds what he had to the others, and who
// gets one begins at 0. It is safe for concurrent use.
type tally struct {
	mu         sync.Mutex
	named      map[labels]*named
	candidates map[labels]int64
	other      int64
}

// named is a count, and what it has to beat others: what it had when it got its name included.
type named struct{ count, weight int64 }

func newTally() *tally { return &tally{named: map[labels]*named{}, candidates: map[labels]int64{}} }

func (t *tally) add(l labels) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.named[l]
	if n == nil && len(t.named) < maxNamed {
		n = &named{}
		t.named[l] = n
	}
	if n != nil {
		n.count++
		n.weight++
		return
	}
	t.other++
	if _, ok := t.candidates[l]; !ok && len(t.candidates) >= maxCandidates {
		clear(t.candidates) // Who is among the first will soon be there again.
	}
	t.candidates[l]++
	// Looking at all names is for those who have become twice as many.
	if n := t.candidates[l]; n > 1 && bits.OnesCount64(uint64(n)) == 1 {
		t.promote(l, n)
	}
}

// promote gives l the name of whoever has fewest, if that is less than half of what l has.
func (t *tally) promote(l labels, n int64) {
	fewest, least := otherLabels, &named{weight: math.MaxInt64}
	for name, other := range t.named {
		if other.weight < least.weight {
			fewest, least = name, other
		}
	}
	if 2*least.weight > n {
		return
	}
	t.other += least.count
	delete(t.named, fewest)
	delete(t.candidates, l)
	t.named[l] = &named{weight: n}
}

// each calls do with every count.
func (t *tally) each(do func(labels, int64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l, n := range t.named {
		do(l, n.count)
	}
	if t.other > 0 {
		do(otherLabels, t.other)
	}
}
