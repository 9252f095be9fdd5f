package command_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/internal/golden"
)

// Each folder of testdata/compile holds manifests and what compile makes of them, in every form.
func TestCompile(t *testing.T) {
	t.Parallel()
	for _, name := range golden.Cases(t, "testdata/compile", "in.yaml") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join("testdata", "compile", name)
			in := filepath.Join(dir, "in.yaml")
			outputs := map[string][]byte{}
			for _, form := range []string{"text", "json", "yaml"} {
				code, stdout, stderr := run(t, "compile", "-f", in, "-o", form)
				if accepted := name == "everything-accepted"; accepted != (code == 0) || accepted != (stderr == "") {
					t.Errorf("%s: exit code %d and %q on stderr", form, code, stderr)
				}
				outputs["compile."+form] = []byte(stdout)
				outputs["stderr"] = []byte(stderr)
			}
			golden.Check(t, dir, outputs, "in.yaml")
		})
	}
}

// With --table, what is wrong goes to stderr, so that stdout is the table alone.
func TestCompileTable(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"text", "json"} {
		code, stdout, stderr := run(t, "compile", "-f", "testdata/compile/much-not-accepted/in.yaml", "--table", "-o", form)
		if code != 1 || !strings.Contains(stderr, "in.yaml:7: RateLimitTier free: spec.limits.rates[0].max: The value -10") {
			t.Errorf("exit code %d, want 1 and the reasons, got %s", code, stderr)
		}
		if !json.Valid([]byte(stdout)) {
			t.Errorf("want JSON, got %s", stdout)
		}
	}
	if got := mustRun(t, "compile", "-f", quickstart, "--table", "-o", "yaml"); !strings.HasPrefix(got, "gateways:\n") {
		t.Errorf("want YAML, got %.100s", got)
	}
}

// quotas are in states in which limits alone do not tell the truth.
const quotas = `
apiVersion: tierkeeper.io/v1alpha1
kind: RateLimitTier
metadata: {name: free}
spec:
  limits: {rates: [{metric: Requests, per: Minute, max: 1000000, exceeded: PaymentRequired}], concurrency: {max: 5}}
  resources: [{resource: chat, limits: {rates: [{metric: Tokens, per: Day, max: 7}]}}]
---
apiVersion: tierkeeper.io/v1alpha1
kind: ModelLimit
metadata: {name: gpt-4}
spec: {models: ["gpt-4*"], resource: chat, shared: {rates: [{metric: Requests, per: Hour, max: 20, algorithm: SlidingWindow}]}}
---
apiVersion: tierkeeper.io/v1alpha1
kind: ApiKeyQuota
metadata: {name: active, namespace: team}
spec:
  tierRef: {name: free}
  limits: {rates: [{metric: Requests, per: Day, max: 9}]}
  keys: [{name: a, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000001"}]
---
apiVersion: tierkeeper.io/v1alpha1
kind: ApiKeyQuota
metadata: {name: suspended}
spec:
  tierRef: {name: free}
  desiredState: Suspended
  keys: [{name: a, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000002"}]
---
apiVersion: tierkeeper.io/v1alpha1
kind: ApiKeyQuota
metadata: {name: expired}
spec:
  tierRef: {name: free}
  expirationTime: 2020-01-01T00:00:00Z
  keys: [{name: a, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000003"}]
`

func TestEffective(t *testing.T) {
	t.Parallel()
	dir := put(t, quotas)
	const table = `
SCOPE  METRIC              PER     MAX        ANSWER  FROM
Key    Requests            Minute  1,000,000  402     RateLimitTier free spec.limits.rates[metric=Requests,per=Minute].max
Key    ConcurrentRequests  -       5          429     RateLimitTier free spec.limits.concurrency.max
`
	cases := map[string]struct {
		args []string
		want string
	}{
		"all scopes, the resource from the model": {
			[]string{"--key", "team/active", "--model", "gpt-4-turbo"},
			`Limits of ApiKeyQuota team/active, on tier free with priority 2, for requests for the resource chat and the model gpt-4-turbo:

SCOPE        METRIC              PER             MAX        ANSWER  FROM
Key          Requests            Minute          1,000,000  402     RateLimitTier free spec.limits.rates[metric=Requests,per=Minute].max
Key          Requests            Day             9          429     ApiKeyQuota team/active spec.limits.rates[metric=Requests,per=Day].max
Key          ConcurrentRequests  -               5          429     RateLimitTier free spec.limits.concurrency.max
KeyResource  Tokens              Day             7          429     RateLimitTier free spec.resources[resource=chat].limits.rates[metric=Tokens,per=Day].max
ModelShared  Requests            Hour (sliding)  20         429     ModelLimit gpt-4 spec.shared.rates[metric=Requests,per=Hour].max
`,
		},
		"suspended": {
			[]string{"--key", "suspended"},
			"Limits of ApiKeyQuota default/suspended, on tier free with priority 2, for all requests:\n" + table +
				"\nThis ApiKeyQuota is suspended (spec.desiredState), so requests with its keys are answered 401.\n",
		},
		"expired": {
			[]string{"--key", "expired", "--resource", "audio"},
			"Limits of ApiKeyQuota default/expired, on tier free with priority 2, for requests for the resource audio:\n" + table +
				"\nThis ApiKeyQuota has expired (spec.expirationTime), so requests with its keys are answered 401.\n",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := mustRun(t, append([]string{"effective", "-f", dir}, tc.args...)...)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The names of the JSON form are relied upon. Concurrency has no unit, an object without a namespace has none.
func TestEffectiveJSON(t *testing.T) {
	t.Parallel()
	dir := put(t, quotas)
	code, stdout, stderr := run(t, "effective", "-f", dir, "--key", "team/active", "-o", "json")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	want := `{
  "key": "team/active",
  "model": "",
  "resource": "",
  "limits": [
    {
      "scope": "Key",
      "metric": "Requests",
      "per": "Minute",
      "max": 1000000,
      "algorithm": "FixedWindow",
      "enforcement": "Enforce",
      "exceeded": "PaymentRequired",
      "origin": {
        "kind": "RateLimitTier",
        "name": "free",
        "field": "spec.limits.rates[metric=Requests,per=Minute].max"
      }
    },
    {
      "scope": "Key",
      "metric": "Requests",
      "per": "Day",
      "max": 9,
      "algorithm": "FixedWindow",
      "enforcement": "Enforce",
      "exceeded": "TooManyRequests",
      "origin": {
        "kind": "ApiKeyQuota",
        "namespace": "team",
        "name": "active",
        "field": "spec.limits.rates[metric=Requests,per=Day].max"
      }
    },
    {
      "scope": "Key",
      "metric": "ConcurrentRequests",
      "max": 5,
      "algorithm": "FixedWindow",
      "enforcement": "Enforce",
      "exceeded": "TooManyRequests",
      "origin": {
        "kind": "RateLimitTier",
        "name": "free",
        "field": "spec.limits.concurrency.max"
      }
    }
  ]
}
`
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if out := mustRun(t, "effective", "-f", keyTiers, "--key", "enterprise", "-o", "json"); !strings.Contains(out, `"limits": []`) {
		t.Errorf("want an empty list for what is unlimited, got %s", out)
	}
	code, stdout, stderr = run(t, "effective", "-f", dir, "--key", "suspended", "-o", "json")
	if code != 0 || !json.Valid([]byte(stdout)) || !strings.HasPrefix(stderr, "Note: This ApiKeyQuota is suspended") {
		t.Errorf("exit code %d, want JSON and a note beside it, got\n%s\n%s", code, stdout, stderr)
	}
}

// Of a quota that is not accepted nobody knows what holds; an empty list would say that nothing is limited.
func TestEffectiveOfWhatIsNotAccepted(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ from, to, want string }{
		"by its tier":   {"metadata: {name: active, namespace: team}\nspec:\n  tierRef: {name: free}", "metadata: {name: active, namespace: team}\nspec:\n  tierRef: {name: other}", "TierNotFound: spec.tierRef.name: "},
		"by its schema": {"max: 9}", "max: -9}", "Invalid: spec.limits.rates[0].max: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(quotas, tc.from) {
				t.Fatal("nothing to replace")
			}
			dir := put(t, strings.Replace(quotas, tc.from, tc.to, 1))
			for _, form := range []string{"text", "json"} {
				code, stdout, stderr := run(t, "effective", "-f", dir, "--key", "team/active", "-o", form)
				if code != 1 || stdout != "" || !strings.Contains(stderr, "Error: ApiKeyQuota team/active is not accepted") || !strings.Contains(stderr, tc.want) {
					t.Errorf("exit code %d, want the reason, got %q and\n%s", code, stdout, stderr)
				}
			}
			code, _, stderr := run(t, "effective", "-f", dir, "--key", "expired")
			if code != 0 || !strings.HasPrefix(stderr, "Note: 1 manifest is not accepted in "+dir) {
				t.Errorf("exit code %d, want a note, got %s", code, stderr)
			}
		})
	}
}
