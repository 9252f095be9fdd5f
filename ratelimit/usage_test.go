package ratelimit_test

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

var ofAlice, ofBob = policy.Name{Namespace: "team", Name: "alice"}, policy.Name{Namespace: "team", Name: "bob"}

// twoOfAUser is manifests of two keys of one user, which has its own limit.
const twoOfAUser = `
tiers:
  plan: {limits: {rates: [{metric: Requests, per: Day, max: 10}, {metric: Tokens, per: Minute, max: 1000, algorithm: SlidingWindow}], concurrency: {max: 5}}}
quotas:
  team/alice: {tierRef: {name: plan}, user: ann}
  team/bob: {tierRef: {name: plan}, user: ann}
users:
  team/for-ann: {user: ann, models: [{model: "gpt-*", limits: {rates: [{metric: Requests, per: Month, max: 4}]}}]}
`

func TestUsageTellsWhatIsUsedOfEveryLimit(t *testing.T) {
	t.Parallel()
	s := serve(t, twoOfAUser)
	s.pass(t, chat("sk-alice"))
	s.end(t, s.pass(t, chat("sk-alice")), descriptor.Settle{Code: 200, Reported: descriptor.Usage{Input: 3, Output: 2}})
	s.pass(t, chat("sk-bob"))

	usages, known, err := s.Usage(t.Context(), ofAlice)
	if err != nil || !known {
		t.Fatalf("known %t, error %v", known, err)
	}
	got := map[string][]string{}
	for _, u := range usages {
		about := fmt.Sprint(u.Object, " at ", u.Alerts)
		for _, l := range u.Limits {
			got[about] = append(got[about], fmt.Sprintf("%s %d of %d, %d left, %d%%, until %s, from %s", l.ID(), l.Used, l.Max, l.Remaining, l.Percent(), reset(l), l.Origin.Object()))
		}
	}
	want := map[string][]string{
		"ApiKeyQuota team/alice at [80 100]": {
			"Key/Requests/Day 2 of 10, 8 left, 20%, until 2024-02-15T00:00:00Z, from RateLimitTier plan",
			"Key/Tokens/Minute 15 of 1000, 985 left, 1%, until 2024-02-14T12:31:48.75Z, from RateLimitTier plan",
			"Key/ConcurrentRequests 1 of 5, 4 left, 20%, until -, from RateLimitTier plan",
		},
		"UserQuota team/for-ann at [80 100]": {"UserModel/model:gpt-*/Requests/Month 3 of 4, 1 left, 75%, until 2024-03-01T00:00:00Z, from UserQuota team/for-ann"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

func reset(l ratelimit.LimitUse) string {
	if l.Reset.IsZero() {
		return "-"
	}
	return l.Reset.Format(time.RFC3339Nano)
}

func TestUsageIsOfQuotasThatAreInForce(t *testing.T) {
	t.Parallel()
	s := serve(t, `{tiers: {plan: {}}, quotas: {team/alice: {tierRef: {name: plan}}, team/bob: {tierRef: {name: gone}}}}`)
	for name, want := range map[policy.Name]bool{ofAlice: true, ofBob: false, {Namespace: "team", Name: "nobody"}: false} {
		if usages, known, err := s.Usage(t.Context(), name); known != want || err != nil || known && (len(usages) != 1 || len(usages[0].Limits) != 0) {
			t.Errorf("%s: %v, known %t, error %v", name, usages, known, err)
		}
	}
	empty := ratelimit.New(s.store, secret)
	if _, known, err := empty.Usage(t.Context(), ofAlice); known || err != nil || empty.Quotas() != nil {
		t.Errorf("without a table: known %t, error %v, quotas %v", known, err, empty.Quotas())
	}
}

func TestActiveNamesEachQuotaThatWasUsedOnce(t *testing.T) {
	t.Parallel()
	text := twoOfAUser + `
gateway: {identity: {missingKey: {action: AssignTier, tierRef: {name: plan}}}}
`
	s := serve(t, text)
	active := func(want ...policy.Name) {
		t.Helper()
		got := s.Active()
		slices.SortFunc(got, func(a, b policy.Name) int { return strings.Compare(a.Name, b.Name) })
		if !slices.Equal(got, want) {
			t.Errorf("active are %v, want %v", got, want)
		}
	}
	active()
	s.pass(t, chat("sk-alice"))
	s.pass(t, with(chat("sk-alice"), func(r *descriptor.Reserve) { r.Model = "other" }))
	s.pass(t, with(chat(""), func(r *descriptor.Reserve) { r.Credentials = nil }))
	active(ofAlice)
	active()
	s.pass(t, chat("sk-alice"))
	s.apply(t, text)
	s.pass(t, chat("sk-alice"))
	s.pass(t, chat("sk-bob"))
	active(ofAlice, ofBob)
	s.refuse(t, chat("sk-bob"), 429)
	active()
}

// Whoever takes what was noted and reads the counters afterwards misses nothing, whatever runs at the same time.
func TestActivityMissesNothing(t *testing.T) {
	t.Parallel()
	const requests = 400
	s := serve(t, oneTier(rates("Requests Day 1000000")))
	done := make(chan struct{})
	go func() {
		defer close(done)
		var senders sync.WaitGroup
		for range 4 {
			senders.Go(func() {
				for range requests / 4 {
					if d, err := s.Reserve(t.Context(), chat("sk-alice")); err != nil || d.Status != 0 {
						t.Errorf("status %d, error %v", d.Status, err)
					}
				}
			})
		}
		senders.Wait()
	}()
	var last int64
	for over := false; !over; {
		select {
		case <-done:
			over = true // and once more
		default:
		}
		if len(s.Active()) == 0 {
			continue
		}
		usages, _, err := s.Usage(t.Context(), ofAlice)
		if err != nil {
			t.Fatal(err)
		}
		last = usages[0].Limits[0].Used
	}
	if last != requests {
		t.Errorf("whoever follows Active saw %d requests at last, want %d", last, requests)
	}
}

func TestKeyUsagesListsTheMostUsedFirst(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers: {plan: {limits: {rates: [{metric: Requests, per: Day, max: 4}]}}, free: {}}
quotas:
  team/a: {tierRef: {name: plan}}
  team/b: {tierRef: {name: plan}}
  team/c: {tierRef: {name: plan}}
  team/d: {tierRef: {name: free}}
  team/e: {tierRef: {name: gone}}
  other/f: {tierRef: {name: plan}}
`)
	for _, key := range []string{"sk-c", "sk-c", "sk-b"} {
		s.pass(t, chat(key))
	}
	for name, tc := range map[string]struct {
		namespace string
		most      int
		want      []string
		more      int
	}{
		"all":            {"", 100, []string{"team/c", "team/b", "other/f", "team/a", "team/d"}, 0},
		"the first":      {"", 1, []string{"team/c"}, 4},
		"the first two":  {"", 2, []string{"team/c", "team/b"}, 3},
		"of a namespace": {"other", 100, []string{"other/f"}, 0},
		"of no key":      {"none", 100, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			list, more, err := s.KeyUsages(t.Context(), tc.namespace, tc.most)
			var got []string
			for _, k := range list {
				got = append(got, k.Key)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || more != tc.more || err != nil {
				t.Errorf("more %d, want %d, error %v, keys (-want +got):\n%s", more, tc.more, err, diff)
			}
		})
	}
}

func TestPercentIsRoundedDown(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.OneOf(rapid.Int64Range(0, 300), rapid.Int64Range(math.MaxInt64-3, math.MaxInt64), rapid.Int64Range(0, math.MaxInt64))
		u := ratelimit.LimitUse{Used: amount.Draw(t, "used"), Max: amount.Draw(t, "max")}
		want := int64(0)
		if u.Max > 0 {
			q := new(big.Int).Mul(big.NewInt(u.Used), big.NewInt(100))
			if q.Quo(q, big.NewInt(u.Max)); q.Cmp(big.NewInt(100)) > 0 {
				q.SetInt64(100)
			}
			want = q.Int64()
		}
		if got := int64(u.Percent()); got != want {
			t.Errorf("%d of %d is %d%%, want %d%%", u.Used, u.Max, got, want)
		}
	})
}
