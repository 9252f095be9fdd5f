package policy_test

import (
	"fmt"
	"testing"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// provider is a platform as large ones are: 8 tiers with limits by resource, class and model, and 60 ModelLimits.
func provider() policy.Input {
	var in policy.Input
	sizes := []string{"XS", "S", "M", "L"}
	for i := range 60 {
		m := v1alpha1.ModelLimit{}
		m.Name = fmt.Sprintf("model-%d", i)
		m.Spec.Models = []string{fmt.Sprintf("vendor-%d/model-%d", i%7, i), fmt.Sprintf("model-%d-*", i)}
		m.Spec.Class, m.Spec.Resource = sizes[i%4], "chat"
		m.Spec.Shared = limit(v1alpha1.MetricTokens, v1alpha1.PerMinute, 50_000_000)
		in.Models = append(in.Models, &m)
	}
	for i := range 8 {
		tier := v1alpha1.RateLimitTier{}
		tier.Name = fmt.Sprintf("tier-%d", i)
		tier.Spec.Limits = limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 100)
		tier.Spec.Limits.Rates = append(tier.Spec.Limits.Rates, limit(v1alpha1.MetricRequests, v1alpha1.PerDay, 10_000).Rates...)
		tier.Spec.Limits.Concurrency = &v1alpha1.Concurrency{Max: new(int32(20))}
		for _, r := range []string{"chat", "images", "audio", "embeddings"} {
			tier.Spec.Resources = append(tier.Spec.Resources, v1alpha1.ResourceLimits{Resource: r, Limits: *limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 60)})
		}
		for _, c := range sizes {
			l := limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 50)
			l.Rates = append(l.Rates, limit(v1alpha1.MetricTokens, v1alpha1.PerMinute, 500_000).Rates...)
			tier.Spec.Classes = append(tier.Spec.Classes, v1alpha1.ClassLimits{Class: c, Limits: *l})
		}
		for m := range 3 {
			tier.Spec.Models = append(tier.Spec.Models, v1alpha1.ModelLimits{
				Model: fmt.Sprintf("model-%d-*", m), Limits: *limit(v1alpha1.MetricTokens, v1alpha1.PerMinute, 200_000),
			})
		}
		in.Tiers = append(in.Tiers, &tier)
	}
	return in
}

func limit(m v1alpha1.Metric, p v1alpha1.Per, most int64) *v1alpha1.Limits {
	return &v1alpha1.Limits{Rates: []v1alpha1.Rate{{Metric: m, Per: p, Max: new(most)}}}
}

// customers adds n quotas, half of them with keys in Secrets: one in ten lowers a limit over everything, one in a hundred
// that of a model.
func customers(in policy.Input, n int) policy.Input {
	in.Secrets = map[policy.Name]policy.Secret{}
	for i := range n {
		q := v1alpha1.ApiKeyQuota{}
		q.Namespace, q.Name = fmt.Sprintf("team-%d", i%500), fmt.Sprintf("key-%d", i)
		q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", Digest: digest(i)}}
		if i%2 == 0 {
			q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", SecretKeyRef: &v1alpha1.SecretKeyRef{Name: q.Name, Key: "key"}}}
			keys := map[string]policy.Key{"key": policy.ReadKey(fmt.Append(nil, "sk-", i))}
			in.Secrets[policy.Name{Namespace: q.Namespace, Name: q.Name}] = policy.Secret{Labelled: true, Keys: keys}
		}
		q.Spec.TierRef.Name = fmt.Sprintf("tier-%d", i%8)
		if i%10 == 0 {
			q.Spec.Limits = limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 10)
		}
		if i%100 == 1 {
			q.Spec.Models = []v1alpha1.ModelLimits{{Model: "model-1-*", Limits: *limit(v1alpha1.MetricTokens, v1alpha1.PerMinute, 1000)}}
		}
		in.Quotas = append(in.Quotas, &q)
	}
	return in
}

func BenchmarkResolve(b *testing.B) {
	in := customers(provider(), 2)
	user := v1alpha1.UserQuota{}
	user.Namespace, user.Name, user.Spec.User = "team-0", "ann", "ann"
	user.Spec.Limits = limit(v1alpha1.MetricTokens, v1alpha1.PerMonth, 1_000_000_000)
	in.Users, in.Quotas[0].Spec.User = []*v1alpha1.UserQuota{&user}, "ann"
	table, _ := policy.Compile(in)
	for name, c := range map[string]struct {
		key   policy.Name
		model string
	}{
		"user+override/exact":   {policy.Name{Namespace: "team-0", Name: "key-0"}, "vendor-1/model-1"},
		"user+override/pattern": {policy.Name{Namespace: "team-0", Name: "key-0"}, "model-1-large"},
		"override/pattern":      {policy.Name{Namespace: "team-1", Name: "key-1"}, "model-1-large"},
		"override/unknown":      {policy.Name{Namespace: "team-1", Name: "key-1"}, "nobody-named-this"},
	} {
		b.Run(name, func(b *testing.B) {
			credential, _ := table.Quota(c.key)
			b.ReportMetric(float64(len(table.Resolve(nil, credential.Holder, c.model, "chat").Limits)), "limits")
			b.ReportAllocs()
			for b.Loop() {
				table.Resolve(nil, credential.Holder, c.model, "chat")
			}
		})
	}
}

func BenchmarkCanonical(b *testing.B) {
	table, _ := policy.Compile(customers(provider(), 2))
	b.ReportAllocs()
	for b.Loop() {
		table.Canonical("model-1-large")
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			if n > 10_000 && testing.Short() {
				b.Skip("takes seconds; run it without -short")
			}
			in := customers(provider(), n)
			b.ReportAllocs()
			for b.Loop() {
				policy.Compile(in)
			}
		})
	}
}

// BenchmarkCompileWithoutTiers is what it costs when somebody deletes every tier: all keys go on as they were.
func BenchmarkCompileWithoutTiers(b *testing.B) {
	in := customers(provider(), 10_000)
	table, _ := policy.Compile(in)
	in.Tiers, in.LastAccepted = nil, restarted(b, table.Accepted())
	b.ReportAllocs()
	for b.Loop() {
		policy.Compile(in)
	}
}
