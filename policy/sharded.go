package policy

import (
	"encoding/binary"
	"hash/maphash"
	"iter"
	"maps"
	"reflect"
	"slices"
)

// shardCount is how many maps a sharded has: with 100,000 entries a change copies one map of a hundred and a list of 1,024.
const shardCount = 1 << 10

// A shardKey spreads evenly over shards.
type shardKey interface {
	comparable
	shard() uint64
}

var shardSeed = maphash.MakeSeed()

func (d Digest) shard() uint64 { return uint64(binary.LittleEndian.Uint16(d[:])) % shardCount }

func (n Name) shard() uint64 { return maphash.Comparable(shardSeed, n) % shardCount }

// A sharded is a map of which a copy costs little: what is changed afterwards is copied then, and all else stays shared. Copies
// are safe for concurrent reading.
type sharded[K shardKey, V any] struct {
	shards []map[K]V
	owned  []bool // shards that no copy shares, so that they can be written in place
	each   int    // how many entries a new shard is made for
}

// newSharded makes room for about n entries.
func newSharded[K shardKey, V any](n int) sharded[K, V] {
	return sharded[K, V]{make([]map[K]V, shardCount), make([]bool, shardCount), n / shardCount}
}

// share returns what the map is now, to be read only.
func (s *sharded[K, V]) share() sharded[K, V] {
	clear(s.owned)
	return sharded[K, V]{shards: slices.Clone(s.shards)}
}

func (s *sharded[K, V]) get(k K) (v V, ok bool) {
	if s.shards == nil {
		return v, false
	}
	v, ok = s.shards[k.shard()][k]
	return v, ok
}

func (s *sharded[K, V]) set(k K, v V) { s.writable(k)[k] = v }

func (s *sharded[K, V]) delete(k K) {
	if _, ok := s.get(k); ok {
		delete(s.writable(k), k)
	}
}

func (s *sharded[K, V]) writable(k K) map[K]V {
	i := k.shard()
	switch {
	case s.shards[i] == nil:
		s.shards[i] = make(map[K]V, s.each)
	case !s.owned[i]:
		s.shards[i] = maps.Clone(s.shards[i])
	}
	s.owned[i] = true
	return s.shards[i]
}

func (s *sharded[K, V]) len() (n int) {
	for _, shard := range s.shards {
		n += len(shard)
	}
	return n
}

// unlike yields the shards of which two maps have copies of their own, first the other's, and passes over those that they share.
func (s *sharded[K, V]) unlike(other *sharded[K, V]) iter.Seq2[map[K]V, map[K]V] {
	return func(yield func(was, now map[K]V) bool) {
		for i, now := range s.shards {
			was := other.shards[i]
			if !shared(was, now) && !yield(was, now) {
				return
			}
		}
	}
}

// shared reports whether both are one map.
func shared[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

// all yields every entry, in no order.
func (s *sharded[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, shard := range s.shards {
			for k, v := range shard {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}
