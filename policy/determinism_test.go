package policy_test

import (
	"encoding/json"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/internal/golden"
	"github.com/tierkeeper/tierkeeper/policy"
)

// TestOrderMeansNothing compiles every golden case 50 times, its lists in another order each time.
func TestOrderMeansNothing(t *testing.T) {
	t.Parallel()
	for _, name := range golden.Cases(t, "testdata", "in.yaml") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join("testdata", name)
			first, _, verdicts := compileCase(t, dir)
			accepted := line(t, first.Accepted())
			for seed := range uint64(50) {
				in := readCase(t, dir)
				shuffleInput(rand.New(rand.NewPCG(seed, 0)), &in)
				again, verdictsAgain := policy.Compile(in)
				if diff := cmp.Diff(verdicts, verdictsAgain); diff != "" {
					t.Fatalf("verdicts, seed %d (-first +again):\n%s", seed, diff)
				}
				if first.Version() != again.Version() {
					t.Fatalf("version, seed %d: the content differs (-first +again):\n%s", seed, cmp.Diff(content(t, first), content(t, again)))
				}
				if diff := cmp.Diff(accepted, line(t, again.Accepted())); diff != "" {
					t.Fatalf("accepted, seed %d (-first +again):\n%s", seed, diff)
				}
			}
		})
	}
}

// TestOrderMeansNothingWhateverIsWritten does the same with random objects.
func TestOrderMeansNothingWhateverIsWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := small(t).input()
		first, verdicts := policy.Compile(in)
		shuffleInput(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), &in)
		again, verdictsAgain := policy.Compile(in)
		if diff := cmp.Diff(verdicts, verdictsAgain); diff != "" {
			t.Fatalf("verdicts (-first +again):\n%s", diff)
		}
		if first.Version() != again.Version() {
			t.Fatal("the versions differ")
		}
		if diff := cmp.Diff(first.Accepted(), again.Accepted()); diff != "" {
			t.Fatalf("accepted (-first +again):\n%s", diff)
		}
	})
}

func shuffleInput(r *rand.Rand, in *policy.Input) {
	shuffle(r, in.Namespaces)
	shuffle(r, in.Tiers)
	shuffle(r, in.Models)
	shuffle(r, in.Quotas)
	shuffle(r, in.Users)
	shuffle(r, in.Gateways)
}

func shuffle[T any](r *rand.Rand, list []T) {
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

// content is a Table as a comparison can show it.
func content(t testing.TB, table *policy.Table) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(line(t, table)), &v); err != nil {
		t.Fatal(err)
	}
	return v
}
