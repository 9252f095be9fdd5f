package load

import (
	"math/bits"
	"time"
)

// fine is how many bits of a duration are kept: it is told to within one part in 2^fine.
const fine = 7

// A Histogram counts durations, each to within 0.8 %. Its zero value is empty.
type Histogram struct {
	buckets [(64 - fine + 1) << fine]int64
	n       int64
}

// Add counts a duration. Below 0 it is taken for 0.
func (h *Histogram) Add(d time.Duration) {
	h.buckets[bucket(uint64(max(d, 0)))]++
	h.n++
}

// Merge counts all that another has counted.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.n += other.n
}

// At is the duration that the share of all (0 to 1) does not exceed; 0 where nothing was counted.
func (h *Histogram) At(share float64) time.Duration {
	rank := min(int64(share*float64(h.n)), h.n-1)
	for i, n := range h.buckets {
		if rank -= n; rank < 0 && n > 0 {
			return middle(i)
		}
	}
	return 0
}

// bucket keeps the first bits of a number: below 2^(fine+1) all of them, then fine bits behind the first.
func bucket(n uint64) int {
	dropped := max(bits.Len64(n)-fine-1, 0)
	return dropped<<fine + int(n>>dropped) //nolint:gosec // It has fine+1 bits.
}

// middle is the number in the middle of a bucket.
func middle(bucket int) time.Duration {
	dropped := max(bucket>>fine-1, 0)
	first := (bucket - dropped<<fine) << dropped
	return time.Duration(first + 1<<dropped/2)
}
