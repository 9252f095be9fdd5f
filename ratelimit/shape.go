package ratelimit

import (
	"hash/maphash"
	"slices"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A shape is what the plans of one kind have in common whose holders have the same limits: all but whose counters they are. So it
// is in the caches of the processor when a holder asks again who has not asked for long. It is immutable.
type shape struct {
	*kind

	limits        []policy.Limit // without Counter and Subject, which differ
	rules         []rule         // those of limits
	enforced      int            // how many of limits are
	defaultOutput int64
	defaultImage  int64
	cachedPercent int64
}

// A rule is what every request needs of a limit.
type rule struct {
	max      int64
	most     int64 // that one request may take
	metric   policy.Metric
	per      policy.Per
	window   counter.Window
	capacity bool
}

var shapeSeed = maphash.MakeSeed()

// shape finds the one of limits that a resolution led to, or makes it. It keeps the limits.
func (k *kind) shape(limits []policy.Limit, r *policy.Resolution) *shape {
	made := newShape(limits)
	made.kind, made.defaultOutput, made.defaultImage, made.cachedPercent = k, r.DefaultOutputTokens, r.DefaultImageTokens, r.CachedInputPercent
	var hash maphash.Hash
	hash.SetSeed(shapeSeed)
	for i := range made.limits {
		maphash.WriteComparable(&hash, made.limits[i])
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, known := range k.shapes[hash.Sum64()] {
		if slices.Equal(known.limits, made.limits) {
			return known
		}
	}
	k.shapes[hash.Sum64()] = append(k.shapes[hash.Sum64()], made)
	return made
}

// newShape is that of limits of which the enforced ones come first.
func newShape(limits []policy.Limit) *shape {
	s := &shape{limits: slices.Clone(limits), rules: make([]rule, len(limits))}
	for i := range s.limits {
		l := &s.limits[i]
		s.rules[i] = rule{l.Max, capOf(*l, limits), l.Pair.Metric, l.Pair.Per, windowOf(*l), l.Capacity != nil}
		if !l.Shadow {
			s.enforced++
		}
		l.Counter, l.Subject = "", ""
	}
	return s
}

// capOf is the limit's Max, or less: of what many share, a request takes no more than its key, and of what others share as
// well no more than its user, may use in a window. Otherwise one request of a small plan that names a huge maximum could
// hold what everybody shares.
func capOf(l policy.Limit, all []policy.Limit) int64 {
	most := l.Max
	for _, narrow := range all {
		if narrow.Shadow == l.Shadow && narrow.Pair.Metric == l.Pair.Metric && sharers(narrow.Scope) < sharers(l.Scope) {
			most = min(most, narrow.Max)
		}
	}
	return most
}

// sharers orders scopes by how many share them: one key, the keys of a user, everybody.
func sharers(s policy.Scope) int {
	switch s {
	case policy.ScopeModelShared:
		return 2
	case policy.ScopeUser, policy.ScopeUserResource, policy.ScopeUserModel:
		return 1
	default:
		return 0
	}
}
