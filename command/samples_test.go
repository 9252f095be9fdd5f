package command_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

// origin and limit are written out here once more, so that no change of names goes unseen.
type origin struct {
	Kind, Namespace, Name, Field string
}

type limit struct {
	Scope, Metric, Per, Algorithm, Enforcement, Exceeded string
	Max, MaxWaitSeconds                                  int64
	Origin                                               origin
}

type effective struct {
	Key, Model, Resource string
	Limits               []limit
}

func keyLimit(metric, per string, most int64, tier string) limit {
	return scoped("Key", rate("RateLimitTier", tier, "spec.limits", metric, per, most))
}

// plan is the limits of a plan in the seed's table: requests and tokens a minute, requests a day.
func plan(tier string, rpm, tpm, rpd int64) []limit {
	return []limit{
		keyLimit("Requests", "Minute", rpm, tier),
		keyLimit("Requests", "Day", rpd, tier),
		keyLimit("Tokens", "Minute", tpm, tier),
	}
}

// Every number of the samples, read back from the command. Those of key-tiers are a published table of plans; for
// model-size-tiers and gateway-tiers see the files of those names.
func TestNumbersOfSamples(t *testing.T) {
	t.Parallel()
	cases := []struct {
		dir, key string
		want     []limit
	}{
		{keyTiers, "default/free", plan("free", 10, 40_000, 500)},
		{keyTiers, "default/basic", plan("basic", 50, 200_000, 10_000)},
		{keyTiers, "default/pro", plan("pro", 100, 1_000_000, 100_000)},
		{keyTiers, "default/enterprise", []limit{}},
		{quickstart, "default/demo-free", append(plan("free", 10, 40_000, 500), keyLimit("ConcurrentRequests", "", 2, "free"))},
		{quickstart, "default/demo-pro", plan("pro", 100, 1_000_000, 100_000)},
	}
	for _, tc := range cases {
		for _, where := range []struct{ model, resource string }{{"", ""}, {"gpt-4", "chat"}} {
			t.Run(filepath.Base(tc.dir)+" "+tc.key+" "+where.model, func(t *testing.T) {
				t.Parallel()
				want := effective{Key: tc.key, Model: where.model, Resource: where.resource, Limits: tc.want}
				checkEffective(t, want, "-f", tc.dir, "--key", tc.key, "--model", where.model, "--resource", where.resource)
			})
		}
	}
}

// rate is a limit as an object says it below path.
func rate(kind, name, path, metric, per string, most int64) limit {
	l := limit{
		Metric: metric, Per: per, Max: most,
		Algorithm: "FixedWindow", Enforcement: "Enforce", Exceeded: "TooManyRequests",
		Origin: origin{kind, "", name, path + ".rates[metric=" + metric + ",per=" + per + "].max"},
	}
	if metric == "ConcurrentRequests" {
		l.Origin.Field = path + ".concurrency.max"
	}
	return l
}

// ownRate is a limit that an object in the namespace default says.
func ownRate(kind, name, path, metric, per string, most int64) limit {
	l := rate(kind, name, path, metric, per, most)
	l.Origin.Namespace = "default"
	return l
}

func scoped(scope string, l limit) limit {
	l.Scope = scope
	return l
}

// checkModel asks for a model and demands that the resource is found by itself.
func checkModel(t *testing.T, dir, key, model, resource string, limits []limit) {
	t.Helper()
	checkEffective(t, effective{Key: key, Model: model, Resource: resource, Limits: limits}, "-f", dir, "--key", key, "--model", model)
}

func checkEffective(t *testing.T, want effective, flags ...string) {
	t.Helper()
	var got effective
	if err := json.Unmarshal([]byte(mustRun(t, append([]string{"effective", "-o", "json"}, flags...)...)), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%v (-want +got):\n%s", flags, diff)
	}
}

// Priorities and dialects are what the seed's headers tell.
func TestPrioritiesOfSamples(t *testing.T) {
	t.Parallel()
	want := map[string]map[string]int{
		keyTiers:       {"free": 1, "basic": 2, "pro": 3, "enterprise": 4},
		quickstart:     {"demo-free": 1, "demo-pro": 3},
		modelSizeTiers: {"standard": 2, "partner": 3, "partner-acme": 3},
		gatewayTiers:   {"free": 1, "pro": 2, "enterprise": 4, "custom": 4},
	}
	for dir, priorities := range want {
		table := compiled(t, dir)
		for name, priority := range priorities {
			c, found := table.Quota(policy.Name{Namespace: "default", Name: name})
			if !found || c.Holder.Priority != priority {
				t.Errorf("%s: want priority %d for %s, got %+v", dir, priority, name, c)
			}
		}
	}
}

func TestDialectsOfSamples(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{keyTiers, quickstart} {
		if g := checkGateway(t, dir, policy.ResetUnixSeconds, policy.ResetDeltaSeconds); g.PerResource == nil || g.PerResource.Window != policy.Minute {
			t.Errorf("%s: want the headers of both dialects, got %+v", dir, g.PerResource)
		}
	}
}

// checkGateway demands the port that all samples have, and the headers x-ratelimit-… with resets in these forms.
func checkGateway(t *testing.T, dir string, requests, tokens policy.Reset) *policy.Gateway {
	t.Helper()
	g, found := compiled(t, dir).Gateway("default/main")
	if !found {
		t.Fatalf("%s has no gateway default/main", dir)
	}
	if g.PerMetric == nil || g.PerMetric.RequestsReset != requests || g.PerMetric.TokensReset != tokens {
		t.Errorf("%s: want resets as %v and %v, got %+v", dir, requests, tokens, g.PerMetric)
	}
	if len(g.Listeners) != 1 || g.Listeners[0].Port != 8080 {
		t.Errorf("%s: want port 8080, got %+v", dir, g.Listeners)
	}
	return g
}

// The keys are what the README's curl lines send.
func TestKeysOfQuickstart(t *testing.T) {
	t.Parallel()
	table := compiled(t, quickstart)
	for _, key := range []string{"demo-free", "demo-pro"} {
		c, found := table.Lookup(policy.HashKey([]byte(key)))
		if want := (policy.Name{Namespace: "default", Name: key}); !found || c.Quota != want {
			t.Errorf("want the key %s to be that of %s, got %+v", key, want, c)
		}
	}
}

func compiled(t *testing.T, dir string) *policy.Table {
	t.Helper()
	result := new(manifest.Loader).Load(dir)
	for _, p := range result.Problems {
		t.Errorf("want no problem, got %s", p)
	}
	table, _ := policy.Compile(result.Input)
	return table
}

// Every folder of samples is in order by itself, and nothing in it is left alone.
func TestSamplesAreAccepted(t *testing.T) {
	t.Parallel()
	const samples = "../config/samples"
	dirs, err := os.ReadDir(samples)
	if err != nil || len(dirs) < 2 {
		t.Fatalf("found %d samples, %v", len(dirs), err)
	}
	for _, d := range dirs {
		t.Run(d.Name(), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(samples, d.Name())
			result := new(manifest.Loader).Load(dir)
			for _, p := range result.Problems {
				t.Errorf("want no problem, got %s", p)
			}
			for _, i := range result.Ignored {
				t.Errorf("want every document to count, got %+v", i)
			}
			_, verdicts := policy.Compile(result.Input)
			for _, v := range verdicts {
				if !v.Accepted() {
					t.Errorf("want %s to be accepted, got %+v", v.Object, v.Problems)
				}
			}
			mustRun(t, "compile", "-f", dir)
		})
	}
}
