package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestATallyNamesThoseWhoHaveMost counts many keys, of which some have far more than others, and watches every count.
func TestATallyNamesThoseWhoHaveMost(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	tally, before := newRefusals(), map[labels]int64{}
	name := func(n int) labels { return labels{key: fmt.Sprint("team/key", n)} }
	for n := range 50_000 { // Whoever comes first is named, of many.
		tally.add(name(n), noted)
	}
	var total int64 = 50_000
	for round := range 40 {
		for range 1000 {
			tally.add(name(1_000_000+r.IntN(20)), noted) // Then twenty come that have much.
			tally.add(name(r.IntN(50_000)), noted)
			total += 2
		}
		var sum int64
		names, now := 0, map[labels]int64{}
		other := tally.each(func(l labels, n *named[struct{}]) {
			sum += n.count
			names++
			if n.count < before[l] && n.count > 0 { // Whoever lost his name and has a new one begins anew.
				t.Errorf("round %d: the count of %q fell from %d to %d", round, l.key, before[l], n.count)
			}
			now[l] = n.count
		})
		sum += other
		before = now
		if sum != total || names > maxNamed {
			t.Fatalf("round %d: %d are counted under %d names, want %d under at most %d", round, sum, names, total, maxNamed)
		}
		if len(tally.candidates) > maxCandidates {
			t.Fatalf("%d candidates are kept, want at most %d", len(tally.candidates), maxCandidates)
		}
	}
	for n := range 20 {
		if tally.named[name(1_000_000+n)] == nil {
			t.Errorf("key %d has most and no name", n)
		}
	}
}
