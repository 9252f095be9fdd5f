package policy_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// versioned is an Input with something of everything.
func versioned() policy.Input {
	group := v1alpha1.ModelLimit{Spec: v1alpha1.ModelLimitSpec{
		Models: []string{"gpt-4o"}, Class: "large",
		Shared: limit(v1alpha1.MetricTokens, v1alpha1.PerMinute, 1000),
		PerKey: limit(v1alpha1.MetricTokens, v1alpha1.PerMinute, 100),
	}}
	group.Name = "gpt"
	parent := v1alpha1.ModelLimit{Spec: v1alpha1.ModelLimitSpec{Models: []string{"all"}}}
	parent.Name = "parent"
	in := single(
		v1alpha1.KeyLimits{Limits: limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 5)},
		v1alpha1.RateLimitTierSpec{KeyLimits: v1alpha1.KeyLimits{
			Limits:    limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 10),
			Resources: []v1alpha1.ResourceLimits{{Resource: "chat", Limits: *limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 9)}},
			Classes:   []v1alpha1.ClassLimits{{Class: "large", Limits: *limit(v1alpha1.MetricRequests, v1alpha1.PerDay, 8)}},
			Models:    []v1alpha1.ModelLimits{{Model: "gpt-*", Limits: *limit(v1alpha1.MetricRequests, v1alpha1.PerHour, 7)}},
		}},
		[]*v1alpha1.ModelLimit{&group, &parent})
	in.Tiers = append(in.Tiers, in.Tiers[0].DeepCopy(), &v1alpha1.RateLimitTier{})
	in.Tiers[1].Name, in.Tiers[2].Name = "same", "strangers"
	in.Tiers[2].Spec.Limits = limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 3)
	in.Tiers = append(in.Tiers, &v1alpha1.RateLimitTier{}, &v1alpha1.RateLimitTier{})
	in.Tiers[3].Name, in.Tiers[4].Name = "empty", "also-empty"
	in.Users = []*v1alpha1.UserQuota{{Spec: v1alpha1.UserQuotaSpec{User: "ann"}}}
	in.Users[0].Namespace, in.Users[0].Name = "team-a", "ann"
	in.Users[0].Spec.Limits = limit(v1alpha1.MetricRequests, v1alpha1.PerDay, 50)

	rejected := *in.Quotas[0].DeepCopy()
	rejected.Name, rejected.Spec.TierRef.Name, rejected.Spec.Keys[0].Digest = "rejected", "gone", digest(1)
	in.Quotas = append(in.Quotas, &rejected)
	last, former := policy.AcceptedQuota{Tier: "gone@1"}, policy.AcceptedTier{Name: "gone"}
	last.Limits.Limits = limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 99)
	former.Spec.Limits = limit(v1alpha1.MetricRequests, v1alpha1.PerMinute, 10)
	in.LastAccepted.Quotas = map[string]policy.AcceptedQuota{"team-a/rejected": last}
	in.LastAccepted.Tiers = map[string]policy.AcceptedTier{"gone@1": former}

	g := v1alpha1.QuotaGateway{}
	g.Namespace, g.Name = "edge", "main"
	g.Spec.Identity.Sources = []v1alpha1.KeySource{{Header: "x-api-key"}}
	g.Spec.Identity.MissingKey = &v1alpha1.Stranger{Action: v1alpha1.StrangerAssignTier, TierRef: &v1alpha1.Ref{Name: "strangers"}}
	in.Gateways = []*v1alpha1.QuotaGateway{&g}
	return in
}

// TestEveryChangeIsANewVersion makes one change at a time. No two of the results are equal.
func TestEveryChangeIsANewVersion(t *testing.T) {
	t.Parallel()
	versions := map[string]string{}
	for name, change := range changes() {
		in := versioned()
		change(&in)
		table, _ := policy.Compile(in)
		if other, taken := versions[table.Version()]; taken {
			t.Errorf("%q and %q have one version", name, other)
		}
		versions[table.Version()] = name
	}
}

// changes are those of one thing each to what versioned makes.
func changes() map[string]func(in *policy.Input) {
	return map[string]func(in *policy.Input){
		"none":        func(*policy.Input) {},
		"another key": func(in *policy.Input) { in.Quotas[0].Spec.Keys[0].Digest = digest(2) },
		"one more key": func(in *policy.Input) {
			in.Quotas[0].Spec.Keys = append(in.Quotas[0].Spec.Keys, v1alpha1.APIKey{Name: "more", Digest: digest(2)})
		},
		"suspended":           func(in *policy.Input) { in.Quotas[0].Spec.DesiredState = v1alpha1.DesiredStateSuspended },
		"an expiration":       func(in *policy.Input) { in.Quotas[0].Spec.ExpirationTime = &metav1.Time{Time: time.Unix(1, 0)} },
		"a later expiration":  func(in *policy.Input) { in.Quotas[0].Spec.ExpirationTime = &metav1.Time{Time: time.Unix(2, 0)} },
		"an equal tier":       func(in *policy.Input) { in.Quotas[0].Spec.TierRef.Name = "same" },
		"an empty tier":       func(in *policy.Input) { in.Quotas[0].Spec.TierRef.Name = "empty" },
		"another empty tier":  func(in *policy.Input) { in.Quotas[0].Spec.TierRef.Name = "also-empty" },
		"no user":             func(in *policy.Input) { in.Quotas[0].Spec.User = "" },
		"a quota's limit":     func(in *policy.Input) { *in.Quotas[0].Spec.Limits.Rates[0].Max = 4 },
		"a quota's name":      func(in *policy.Input) { in.Quotas[0].Name = "other" },
		"a quota's namespace": func(in *policy.Input) { in.Quotas[0].Namespace = "team-b" },
		"a priority":          func(in *policy.Input) { in.Tiers[0].Spec.Priority = v1alpha1.PriorityHigh },
		"a pool":              func(in *policy.Input) { in.Tiers[0].Spec.BackendPool = "own" },
		"a tier's limit":      func(in *policy.Input) { *in.Tiers[0].Spec.Limits.Rates[0].Max = 11 },
		"an answer":           func(in *policy.Input) { in.Tiers[0].Spec.Limits.Rates[0].Exceeded = v1alpha1.ExceededForbidden },
		"a lifted limit": func(in *policy.Input) {
			in.Tiers[0].Spec.Resources[0].Limits.Rates[0].Mode, in.Tiers[0].Spec.Resources[0].Limits.Rates[0].Max = v1alpha1.ModeUnlimited, nil
		},
		"a resource":          func(in *policy.Input) { in.Tiers[0].Spec.Resources[0].Resource = "images" },
		"a class":             func(in *policy.Input) { in.Tiers[0].Spec.Classes[0].Class = "small" },
		"a class together":    func(in *policy.Input) { in.Tiers[0].Spec.Classes[0].Counted = v1alpha1.CountedTogether },
		"a pattern":           func(in *policy.Input) { in.Tiers[0].Spec.Models[0].Model = "gpt*" },
		"a pattern together":  func(in *policy.Input) { in.Tiers[0].Spec.Models[0].Counted = v1alpha1.CountedTogether },
		"a user's limit":      func(in *policy.Input) { *in.Users[0].Spec.Limits.Rates[0].Max = 51 },
		"a user's name":       func(in *policy.Input) { in.Users[0].Spec.User, in.Quotas[0].Spec.User = "bob", "bob" },
		"a model's name":      func(in *policy.Input) { in.Models[0].Spec.Models[0] = "gpt-5" },
		"a model's class":     func(in *policy.Input) { in.Models[0].Spec.Class = "small" },
		"a model's resource":  func(in *policy.Input) { in.Models[0].Spec.Resource = "chat" },
		"a model's output":    func(in *policy.Input) { in.Models[0].Spec.Tokens = &v1alpha1.TokenAssumptions{DefaultOutputTokens: 1} },
		"a shared limit":      func(in *policy.Input) { *in.Models[0].Spec.Shared.Rates[0].Max = 1001 },
		"a per-key limit":     func(in *policy.Input) { *in.Models[0].Spec.PerKey.Rates[0].Max = 101 },
		"a parent":            func(in *policy.Input) { in.Models[0].Spec.ParentRef = &v1alpha1.Ref{Name: "parent"} },
		"a tier's alerts":     func(in *policy.Input) { in.Tiers[0].Spec.Alerts = &v1alpha1.Alerts{ThresholdPercents: []int32{60}} },
		"a quota's alerts":    func(in *policy.Input) { in.Quotas[0].Spec.Alerts = thresholds[1] },
		"a stranger's alerts": func(in *policy.Input) { in.Tiers[2].Spec.Alerts = thresholds[1] },
		"a stranger's limit":  func(in *policy.Input) { *in.Tiers[2].Spec.Limits.Rates[0].Max = 4 },
		"a stranger's priority": func(in *policy.Input) {
			in.Tiers[2].Spec.Priority = v1alpha1.PriorityLow
		},
		"no strangers": func(in *policy.Input) { in.Gateways[0].Spec.Identity.MissingKey = nil },
		"allowed keys": func(in *policy.Input) {
			in.Gateways[0].Spec.AllowedKeys = &v1alpha1.AllowedKeys{Namespaces: v1alpha1.Namespaces{From: v1alpha1.NamespacesAll}}
		},
		"a dialect":       dialect(v1alpha1.Dialect{Type: v1alpha1.DialectIETF}),
		"another dialect": dialect(v1alpha1.Dialect{Type: v1alpha1.DialectAnthropic}),
		"a dialect's window": dialect(v1alpha1.Dialect{
			Type: v1alpha1.DialectAnthropic, Anthropic: &v1alpha1.AnthropicHeaders{Window: v1alpha1.HeaderWindow(v1alpha1.PerMinute)},
		}),
		"another dialect's window": dialect(v1alpha1.Dialect{
			Type: v1alpha1.DialectIETF, IETF: &v1alpha1.IETFHeaders{Window: v1alpha1.HeaderWindow(v1alpha1.PerMinute)},
		}),
		"a key source":  func(in *policy.Input) { in.Gateways[0].Spec.Identity.Sources[0].Header = "authorization" },
		"a body's size": func(in *policy.Input) { in.Gateways[0].Spec.Requests = &v1alpha1.Requests{MaxBodyBytes: 2048} },
		"protection":    func(in *policy.Input) { in.Gateways[0].Spec.AbuseProtection = &v1alpha1.AbuseProtection{} },
		"a protection of another length": func(in *policy.Input) {
			in.Gateways[0].Spec.AbuseProtection = &v1alpha1.AbuseProtection{BlockSeconds: 31}
		},
		"what was permitted when a quota was last accepted": func(in *policy.Input) {
			former := in.LastAccepted.Tiers["gone@1"]
			former.Spec.KeyOverrides = v1alpha1.KeyOverridesAny
			in.LastAccepted.Tiers["gone@1"] = former
		},
	}
}

// dialect is a change of what answers tell.
func dialect(d v1alpha1.Dialect) func(*policy.Input) {
	return func(in *policy.Input) {
		in.Gateways[0].Spec.Headers = &v1alpha1.ResponseHeaders{Dialects: []v1alpha1.Dialect{d}}
	}
}
