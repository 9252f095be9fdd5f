package ratelimit

import (
	"math"
	"math/bits"
	"sync"

	"github.com/tierkeeper/tierkeeper/policy"
)

const (
	maxNamed      = 200  // combinations of labels that a metric tells apart
	maxCandidates = 2000 // for a name
	otherKeys     = "other"
)

// labels says whose requests a limit refused, and which limit.
type labels struct{ key, scope, metric, per, object string }

func labelsOf(holder string, scope policy.Scope, pair policy.Pair, origin policy.Origin) labels {
	return labels{holder, scope.String(), pair.Metric.String(), pair.Per.String(), origin.Object().String()}
}

func labelsOfLimit(h *policy.Holder, l *policy.Limit) labels {
	return labelsOf(h.Name, l.Scope, l.Pair, l.Origin)
}

// A tally counts things: those that come most by name, all others together. Whoever is named first stays so until something
// else has come twice as often. No count ever falls: what loses its name adds what it had to the others, and what gets one begins
// at 0. With each name it keeps something. It is safe for concurrent use.
type tally[K comparable, V any] struct {
	most int // names

	mu         sync.Mutex
	named      map[K]*named[V]
	candidates map[K]int64
	other      int64
}

// named is a count, and what it has to beat others: what it had when it got its name included.
type named[V any] struct {
	count, weight int64
	kept          V
}

func newTally[K comparable, V any](most int) *tally[K, V] {
	return &tally[K, V]{most: most, named: map[K]*named[V]{}, candidates: map[K]int64{}}
}

// add counts one more, and lets note change what is kept of it if it has a name.
func (t *tally[K, V]) add(k K, note func(*V)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.named[k]
	if n == nil && len(t.named) < t.most {
		n = &named[V]{}
		t.named[k] = n
	}
	if n != nil {
		n.count++
		n.weight++
		note(&n.kept)
		return
	}
	t.other++
	if _, ok := t.candidates[k]; !ok && len(t.candidates) >= maxCandidates {
		clear(t.candidates) // What is among the first will soon be there again.
	}
	t.candidates[k]++
	// Looking at all names is for those who have become twice as many.
	if n := t.candidates[k]; n > 1 && bits.OnesCount64(uint64(n)) == 1 {
		t.promote(k, n, note)
	}
}

// promote gives k the name of whatever has fewest, if that is no more than half of what k has.
func (t *tally[K, V]) promote(k K, n int64, note func(*V)) {
	var fewest K
	least := &named[V]{weight: math.MaxInt64}
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
	delete(t.candidates, k)
	fresh := &named[V]{weight: n}
	note(&fresh.kept)
	t.named[k] = fresh
}

// each calls do with every name, and returns the count of all others.
func (t *tally[K, V]) each(do func(K, *named[V])) (other int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, n := range t.named {
		do(k, n)
	}
	return t.other
}

// refusals are a tally for a metric.
type refusals = tally[labels, struct{}]

func newRefusals() *refusals { return newTally[labels, struct{}](maxNamed) }

func noted(*struct{}) {}
