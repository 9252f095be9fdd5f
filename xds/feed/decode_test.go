package feed_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/feed"
	"github.com/tierkeeper/tierkeeper/xds/feed/feedv1"
)

// alike compares parts; no list and an empty one say the same.
var alike = cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(policy.Gateway{}), cmpopts.EquateComparable(netip.Prefix{})}

func TestAPartIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	for name, table := range examples() {
		parts, _ := table.Changes(nil)
		for _, want := range parts {
			n, err := feed.ParseName(feed.ResourceName(want.PartName()))
			if err != nil || n != want.PartName() {
				t.Errorf("%s: %s is named %s (%v)", name, want.PartName(), n, err)
			}
			got, err := feed.Decode(n, feed.Encode(want))
			if err != nil {
				t.Errorf("%s: %s: %v", name, n, err)
			}
			if diff := cmp.Diff(want, got, alike); diff != "" {
				t.Errorf("%s: %s (-written +read):\n%s", name, n, diff)
			}
		}
	}
}

// TestNumbersMeanWhatTheirNamesSay compares the names of feedv1's numbers with those of policy's.
func TestNumbersMeanWhatTheirNamesSay(t *testing.T) {
	t.Parallel()
	for n, name := range feedv1.Metric_name {
		r, err := readRule(func(r *feedv1.Rule) {
			r.Metric = feedv1.Metric(n)
			if r.GetMetric() == feedv1.Metric_METRIC_CONCURRENT_REQUESTS {
				r.Per = 0
			}
		})
		compareNumber(t, "METRIC_", name, n, r.Pair.Metric, err)
	}
	for n, name := range feedv1.Per_name {
		r, err := readRule(func(r *feedv1.Rule) {
			if r.Per = feedv1.Per(n); n == 0 {
				r.Metric = feedv1.Metric_METRIC_CONCURRENT_REQUESTS
			}
		})
		if n == 0 && err == nil && r.Pair.Per == policy.NoPer {
			continue
		}
		compareNumber(t, "PER_", name, n, r.Pair.Per, err)
	}
	for n, name := range feedv1.Algorithm_name {
		r, err := readRule(func(r *feedv1.Rule) { r.Algorithm = feedv1.Algorithm(n) })
		compareNumber(t, "ALGORITHM_", name, n, r.Algorithm, err)
	}
}

func compareNumber(t *testing.T, prefix, name string, n int32, got fmt.Stringer, err error) {
	t.Helper()
	want := strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", "")
	switch {
	case n == 0 && err == nil:
		t.Errorf("%s is read as %s", name, got)
	case n != 0 && (err != nil || !strings.EqualFold(want, got.String())):
		t.Errorf("%s is read as %s, %v", name, got, err)
	}
}

var (
	tierName  = policy.PartName{Object: policy.Object{Kind: policy.KindTier, Name: policy.Name{Name: "free"}}}
	quotaName = policy.PartName{Object: policy.Object{Kind: policy.KindQuota, Name: policy.Name{Namespace: "team-a", Name: "app"}}}
	key       = policy.HashKey([]byte("sk-1"))
)

func goodRule() *feedv1.Rule {
	return &feedv1.Rule{
		Metric: feedv1.Metric_METRIC_REQUESTS, Per: feedv1.Per_PER_MINUTE, Algorithm: feedv1.Algorithm_ALGORITHM_FIXED_WINDOW, Max: 1, Status: 429,
		Field: "spec.limits.rates[metric=Requests,per=Minute].max",
	}
}

func tierOf(rules ...*feedv1.Rule) *feedv1.Policy {
	return &feedv1.Policy{Part: &feedv1.Policy_Tier{Tier: &feedv1.Tier{Priority: 2, Rules: &feedv1.Rules{All: rules}}}}
}

func quotaOf(rules ...*feedv1.Rule) *feedv1.Policy {
	holder := &feedv1.Holder{Tier: &feedv1.TierRef{Name: "free"}, Own: &feedv1.Rules{All: rules}}
	return &feedv1.Policy{Part: &feedv1.Policy_Quota{Quota: &feedv1.Quota{Digests: [][]byte{key[:]}, Holder: holder}}}
}

// readRule reads the rule of a tier, changed.
func readRule(change func(*feedv1.Rule)) (policy.Rule, error) {
	r := goodRule()
	change(r)
	part, err := feed.Decode(tierName, bytesOf(tierOf(r)))
	if err != nil {
		return policy.Rule{}, err
	}
	return part.(*policy.TierPart).Rules.All[0], nil
}

func bytesOf(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// TestWhatIsNotUnderstoodIsRefused changes one thing of a good resource at a time.
func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	rule := func(change func(*feedv1.Rule)) *feedv1.Policy {
		r := goodRule()
		change(r)
		return tierOf(r)
	}
	tier := func(change func(*feedv1.Tier)) *feedv1.Policy {
		p := tierOf(goodRule())
		change(p.GetTier())
		return p
	}
	queue := func(change func(*feedv1.Queue)) *feedv1.Policy {
		return rule(func(r *feedv1.Rule) {
			q := &feedv1.Queue{MaxLength: 1, Age: durationpb.New(time.Second)}
			change(q)
			r.Capacity = &feedv1.Capacity{Queue: q}
		})
	}
	for name, tc := range map[string]struct {
		content *feedv1.Policy
		want    string
	}{
		"a metric of a newer version":     {rule(func(r *feedv1.Rule) { r.Metric = 99 }), "all: number 99 of Metric is not known here"},
		"no metric":                       {rule(func(r *feedv1.Rule) { r.Metric = 0 }), "all: number 0 of Metric is not known here"},
		"a negative metric":               {rule(func(r *feedv1.Rule) { r.Metric = -1 }), "all: number -1 of Metric is not known here"},
		"a unit of a newer version":       {rule(func(r *feedv1.Rule) { r.Per = 6 }), "all: number 6 of Per is not known here"},
		"a rate without a unit":           {rule(func(r *feedv1.Rule) { r.Per = 0 }), "all: METRIC_REQUESTS and PER_UNSPECIFIED do not go together"},
		"an algorithm of a newer version": {rule(func(r *feedv1.Rule) { r.Algorithm = 3 }), "all: number 3 of Algorithm is not known here"},
		"no algorithm":                    {rule(func(r *feedv1.Rule) { r.Algorithm = 0 }), "all: number 0 of Algorithm is not known here"},
		"a negative limit":                {rule(func(r *feedv1.Rule) { r.Max = -1 }), "all: max -1 is negative"},
		"a status of a newer version":     {rule(func(r *feedv1.Rule) { r.Status = 418 }), "all: status 418 is not known here"},
		"no status":                       {rule(func(r *feedv1.Rule) { r.Status = 0 }), "all: status 0 is not known here"},
		"a queue that never ages":         {queue(func(q *feedv1.Queue) { q.Age = nil }), "all: age: it is 0"},
		"a queue of a negative length":    {queue(func(q *feedv1.Queue) { q.MaxLength = -1 }), "all: max_length or max_body_bytes of the queue is negative"},
		"a negative wait":                 {queue(func(q *feedv1.Queue) { q.MaxWait = durationpb.New(-1) }), "all: max_wait: it is negative, or no duration"},
		"a negative share": {rule(func(r *feedv1.Rule) {
			r.Capacity = &feedv1.Capacity{Shares: []*feedv1.Share{{Tier: "free", Size: -1}}}
		}), "all: the share of free is negative"},
		"a priority of a newer version": {tier(func(m *feedv1.Tier) { m.Priority = 5 }), "priority 5 is not known here"},
		"no priority":                   {tier(func(m *feedv1.Tier) { m.Priority = 0 }), "priority 0 is not known here"},
		"a threshold beyond all":        {tier(func(m *feedv1.Tier) { m.Alerts = []int32{101} }), "alerts: 101 is no percentage"},
		"a class without a name":        {tier(func(m *feedv1.Tier) { m.Rules.Classes = []*feedv1.Entry{{}} }), "classes: a name is empty"},
		"a number within an entry": {tier(func(m *feedv1.Tier) {
			m.Rules.Models = []*feedv1.Entry{{Name: "gpt-*", Rules: []*feedv1.Rule{{}}}}
		}), "models[gpt-*]: number 0 of Metric is not known here"},
		"a field of a newer version": {tier(func(m *feedv1.Tier) { m.ProtoReflect().SetUnknown(newField) }), "field 99 of Tier is not known here"},
		"such a field far below":     {rule(func(r *feedv1.Rule) { r.ProtoReflect().SetUnknown(newField) }), "field 99 of Rule is not known here"},
		"a content of another kind":  {quotaOf(), "its content is not that of a RateLimitTier, or of a kind that is not known here"},
		"a content of no known kind": {&feedv1.Policy{}, "its content is not that of a RateLimitTier, or of a kind that is not known here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			part, err := feed.Decode(tierName, bytesOf(tc.content))
			if diff := cmp.Diff(tc.want, fmt.Sprint(err)); diff != "" || part != nil {
				t.Errorf("%v, and the error (-want +got):\n%s", part, diff)
			}
		})
	}
}

// newField is one of which nobody knows yet.
var newField = protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)

// TestTheKeysOfARefusedQuotaAreKnown refuses quotas for what they say beside their keys.
func TestTheKeysOfARefusedQuotaAreKnown(t *testing.T) {
	t.Parallel()
	bad := quotaOf(&feedv1.Rule{})
	bad.GetQuota().Suspended = true
	newer := quotaOf(goodRule())
	newer.GetQuota().ProtoReflect().SetUnknown(newField)
	never := quotaOf(goodRule())
	never.GetQuota().Expires = &timestamppb.Timestamp{Nanos: -1}
	never.GetQuota().Suspended = true
	none := quotaOf(goodRule())
	none.GetQuota().Digests = [][]byte{key[:31], key[:]}
	unknown := &policy.HolderPart{}
	for name, tc := range map[string]struct {
		content *feedv1.Policy
		want    policy.Part
		err     string
	}{
		"a limit": {bad, &policy.QuotaPart{Name: quotaName.Name, Digests: []policy.Digest{key}, Suspended: true, Holder: unknown}, "all: number 0 of Metric is not known here"},
		"a field": {newer, &policy.QuotaPart{Name: quotaName.Name, Digests: []policy.Digest{key}, Holder: unknown}, "field 99 of Quota is not known here"},
		"an expiration": {
			never,
			&policy.QuotaPart{Name: quotaName.Name, Digests: []policy.Digest{key}, Suspended: true, Expires: time.Unix(0, 0).UTC(), Holder: unknown},
			"expires: it is no time",
		},
		"a key": {none, &policy.QuotaPart{Name: quotaName.Name, Digests: []policy.Digest{key}, Holder: unknown}, "digests: one is not a SHA-256"},
	} {
		got, err := feed.Decode(quotaName, bytesOf(tc.content))
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: part (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(tc.err, fmt.Sprint(err)); diff != "" {
			t.Errorf("%s: error (-want +got):\n%s", name, diff)
		}
	}
}

func TestNamesThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"", "RateLimitTier", "RateLimitTier/free", "RateLimitTier//", "RateLimitTier//free/", "Tier//free", "ApiKeyQuota/a/b/c", "QuotaGateway/a/b/c", "UserQuota/a/b/c",
	} {
		if n, err := feed.ParseName(name); err == nil {
			t.Errorf("%q is read as %v", name, n)
		}
	}
}

// FuzzParseName checks that a name is written as it was read.
func FuzzParseName(f *testing.F) {
	for _, seed := range []string{"RateLimitTier//free", "RateLimitTier//free/free@1", "ModelLimit//gpt/for notin (a/b)", "ApiKeyQuota/team-a/app", "a/b/c/d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		n, err := feed.ParseName(name)
		if err != nil {
			return
		}
		if got := feed.ResourceName(n); got != name {
			t.Errorf("read %q, wrote %q", name, got)
		}
	})
}

// FuzzDecode checks that whatever is read can be written again and put in force, and that nothing that is not read does harm.
func FuzzDecode(f *testing.F) {
	for _, table := range examples() {
		parts, _ := table.Changes(nil)
		for _, p := range parts {
			f.Add(feed.ResourceName(p.PartName()), feed.Encode(p))
		}
	}
	f.Add("ApiKeyQuota/team-a/app", bytesOf(quotaOf(&feedv1.Rule{})))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		n, err := feed.ParseName(name)
		if err != nil {
			return
		}
		part, err := feed.Decode(n, content)
		if part == nil {
			if err == nil {
				t.Fatal("neither a part nor an error")
			}
			return
		}
		if part.PartName() != n {
			t.Fatalf("%s is read as %s", n, part.PartName())
		}
		if err == nil {
			again, err := feed.Decode(n, feed.Encode(part))
			if err != nil {
				t.Fatalf("what was written is not read: %v", err)
			}
			if diff := cmp.Diff(part, again, alike); diff != "" {
				t.Fatalf("read again (-first +again):\n%s", diff)
			}
		}
		use(t, part)
	})
}

// use puts a part in force beside a tier, and asks the Table about it.
func use(t *testing.T, part policy.Part) {
	t.Helper()
	a := policy.NewAssembly()
	a.Set(&policy.TierPart{TierRef: policy.TierRef{Name: "free"}, Priority: 1})
	a.Set(part)
	table, _ := a.Table("1")
	if q, ok := part.(*policy.QuotaPart); ok {
		for _, d := range q.Digests {
			if c, known := table.Lookup(d); !known || c.Quota != q.Name {
				t.Fatalf("key %s is that of %v", d, c)
			}
		}
	}
	for _, name := range table.Quotas() {
		if c, _ := table.Quota(name); c.Holder != nil {
			table.Resolve(nil, c.Holder, "gpt-4o", "chat")
		}
	}
	for _, g := range table.Gateways() {
		if g.MissingKey != nil {
			table.Resolve(g, g.MissingKey.Holder(netip.MustParseAddr("203.0.113.9")), "gpt-4o", "chat")
		}
	}
	table.Canonical("gpt-4o")
	table.Capacities()
	a.Delete(part.PartName())
	if after, _ := a.Table("2"); len(after.Quotas())+len(after.Gateways()) > 0 {
		t.Fatal("something is left of what was deleted")
	}
}
