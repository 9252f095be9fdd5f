package policy_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// TestAccountsHoldWhatAnyRequestMeets compares Accounts with what Resolve says of every request at every gateway.
func TestAccountsHoldWhatAnyRequestMeets(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		table, _ := policy.Compile(small(t).input())
		for _, name := range table.Quotas() {
			c, _ := table.Quota(name)
			accounts := table.Accounts(c)
			if c.Holder == nil {
				if accounts != nil {
					t.Fatalf("%s has accounts and no holder", name)
				}
				continue
			}
			got := map[string]int64{}
			for _, a := range accounts {
				for _, l := range a.Limits {
					if _, twice := got[l.Counter]; twice {
						t.Fatalf("%s: counter %s stands twice", name, l.Counter)
					}
					got[l.Counter] = l.Max
				}
			}
			if diff := cmp.Diff(met(table, c), got); diff != "" {
				t.Fatalf("%s: what requests meet, and what the accounts hold (-want +got):\n%s", name, diff)
			}
		}
	})
}

// met is the max of every counter that requests of the quota meet and that is enforced, but for what everybody shares.
func met(table *policy.Table, c *policy.Credential) map[string]int64 {
	gateways := slices.DeleteFunc(table.Gateways(), func(g *policy.Gateway) bool { return !g.Admits(c.Quota.Namespace) })
	if len(gateways) == 0 {
		gateways = []*policy.Gateway{nil}
	}
	all := map[string]int64{}
	for _, g := range gateways {
		for _, model := range append(slices.Clone(asked), named...) {
			for _, resource := range askedResources {
				for _, l := range table.Resolve(g, c.Holder, model, resource).Limits {
					if l.Shadow || l.Scope == policy.ScopeModelShared {
						continue
					}
					if known, ok := all[l.Counter]; !ok || l.Max < known {
						all[l.Counter] = l.Max
					}
				}
			}
		}
	}
	return all
}

// named is a model for each pattern of the small world that no longer pattern matches, and those that single groups name.
var named = func() (models []string) {
	for _, n := range modelNames {
		if n[len(n)-1] == '*' {
			models = append(models, n[:len(n)-1]+"\xff")
		}
	}
	return append(models, "only-m0", "only-m1", "only-m2")
}()

func TestAccountsTellQuotaAndUserApart(t *testing.T) {
	t.Parallel()
	var in struct {
		Tier  v1alpha1.RateLimitTierSpec
		Quota v1alpha1.ApiKeyQuotaSpec
		User  v1alpha1.UserQuotaSpec
		Model v1alpha1.ModelLimitSpec
	}
	err := yaml.UnmarshalStrict([]byte(`
tier:
  limits: {rates: [{metric: Requests, per: Day, max: 100}]}
  resources: [{resource: chat, limits: {concurrency: {max: 3}}}]
  classes: [{class: large, limits: {rates: [{metric: Tokens, per: Minute, max: 50}]}}]
quota:
  tierRef: {name: t0}
  user: ann
  alerts: {thresholdPercents: [90, 50]}
  limits: {rates: [{metric: Requests, per: Day, max: 10}]}
user:
  user: ann
  models: [{model: "gpt-*", counted: Together, limits: {rates: [{metric: Requests, per: Hour, max: 7}]}}]
model:
  class: large
  models: [gpt-5, other]
  shared: {rates: [{metric: Tokens, per: Minute, max: 1000}]}
`), &in)
	if err != nil {
		t.Fatal(err)
	}
	input := single(v1alpha1.KeyLimits{}, in.Tier, []*v1alpha1.ModelLimit{{Spec: in.Model}})
	input.Models[0].Name = "large"
	in.Quota.Keys = input.Quotas[0].Spec.Keys
	input.Quotas[0].Spec = in.Quota
	user := v1alpha1.UserQuota{Spec: in.User}
	user.Namespace, user.Name = "team-a", "for-ann"
	input.Users = []*v1alpha1.UserQuota{&user}
	table, _ := policy.Compile(input)
	c, _ := table.Quota(policy.Name{Namespace: "team-a", Name: "app"})

	got := map[string][]string{}
	for _, a := range table.Accounts(c) {
		about := fmt.Sprint(a.Object, " at ", a.Alerts)
		for _, l := range a.Limits {
			got[about] = append(got[about], fmt.Sprint(l.Scope, " ", l.Entry, " ", l.Pair, " ", l.Max))
		}
	}
	want := map[string][]string{
		"ApiKeyQuota team-a/app at [50 90]": {
			"Key  Requests per Day 10", "KeyResource chat ConcurrentRequests 3",
			"KeyModel model:gpt-5 Tokens per Minute 50", "KeyModel model:other Tokens per Minute 50",
		},
		"UserQuota team-a/for-ann at [80 100]": {"UserModel model:gpt-* Requests per Hour 7"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("accounts (-want +got):\n%s", diff)
	}
	if n, ok := c.Holder.QuotaName(); !ok || n != c.Quota {
		t.Errorf("the holder is of quota %v, want %v", n, c.Quota)
	}
}

// BenchmarkAccounts is what it costs to list the limits of one quota of a large provider.
func BenchmarkAccounts(b *testing.B) {
	table, _ := policy.Compile(customers(provider(), 100))
	names := table.Quotas()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c, _ := table.Quota(names[i%len(names)])
		table.Accounts(c)
	}
}
