package command_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// accounts has two gateways, each before an account of its own at the provider, that give one model different limits.
func accounts() string {
	var b strings.Builder
	for name, most := range map[string]int{"main": 500, "spare": 50} {
		fmt.Fprintf(&b, `apiVersion: tierkeeper.io/v1alpha1
kind: ModelLimit
metadata: {name: gpt-4-%[1]s, labels: {account: %[1]s}}
spec: {models: [gpt-4], shared: {rates: [{metric: Requests, per: Minute, max: %[2]d}]}}
---
apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {name: %[1]s}
spec:
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends: [{name: demo, endpoints: [{address: 127.0.0.1, port: 8090}]}]
  routes: [{name: chat, type: Backend, backendName: demo, protocol: OpenAIChatCompletions, resource: chat, matches: [{path: {type: Exact, value: /v1/chat/completions}}]}]
  identity: {sources: [{header: x-api-key}]}
  modelLimitSelector: {matchLabels: {account: %[1]s}}
  unknownModels: {action: Deny}
---
`, name, most)
	}
	return b.String() + `apiVersion: tierkeeper.io/v1alpha1
kind: RateLimitTier
metadata: {name: free}
spec: {priority: Low}
---
apiVersion: tierkeeper.io/v1alpha1
kind: ApiKeyQuota
metadata: {name: app}
spec: {tierRef: {name: free}, keys: [{name: a, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}]}
`
}

func TestEffectiveAsksTheGatewayWhereModelLimitsDiffer(t *testing.T) {
	t.Parallel()
	dir := put(t, accounts())
	for name, tc := range map[string]struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"one account":        {[]string{"--gateway", "default/main", "--model", "gpt-4"}, 0, `"max": 500`, ""},
		"the other":          {[]string{"--gateway", "spare", "--model", "gpt-4"}, 0, `"max": 50,`, ""},
		"neither":            {[]string{"--model", "gpt-4"}, 1, "", "different ModelLimits count there; name one with --gateway: default/main or default/spare"},
		"no model":           {nil, 0, `"limits": []`, ""},
		"no such gateway":    {[]string{"--gateway", "default/none"}, 1, "", "keys of namespace default are admitted by default/main and default/spare"},
		"a model it refuses": {[]string{"--gateway", "main", "--model", "gpt-5"}, 0, `"limits": []`, "QuotaGateway default/main answers requests for gpt-5 with 404"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := run(t, append([]string{"effective", "-f", dir, "--key", "app", "-o", "json"}, tc.args...)...)
			if code != tc.code || !strings.Contains(stdout, tc.stdout) || !strings.Contains(stderr, tc.stderr) || (stderr == "") != (tc.stderr == "") {
				t.Errorf("exit %d, stdout %s, stderr %s; want %d with %q and %q", code, stdout, stderr, tc.code, tc.stdout, tc.stderr)
			}
		})
	}
}

func TestEffectiveTakesNamespacesAsKubectlDoes(t *testing.T) {
	t.Parallel()
	dir := put(t, strings.ReplaceAll(accounts(), "{name: app}", "{name: app, namespace: team-a}"))
	for name, tc := range map[string]struct {
		args []string
		code int
		says string
	}{
		"whole":       {[]string{"--key", "team-a/app"}, 0, ""},
		"of the flag": {[]string{"-n", "team-a", "--key", "app"}, 0, ""},
		"of neither":  {[]string{"--key", "app"}, 1, "there is no ApiKeyQuota default/app"},
		"of both":     {[]string{"-n", "team-a", "--key", "team-a/app"}, 2, "team-a/app names its namespace, so leave out -n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if code, _, stderr := run(t, append([]string{"effective", "-f", dir}, tc.args...)...); code != tc.code || !strings.Contains(stderr, tc.says) {
				t.Errorf("exit code %d, want %d, and %q, want %q in it", code, tc.code, stderr, tc.says)
			}
		})
	}
	for name, tc := range map[string]struct{ args, want []string }{
		"by whole names": {nil, []string{"team-a/app"}},
		"by the flag":    {[]string{"-n", "team-a"}, []string{"app"}},
		"of another":     {[]string{"-n", "team-b"}, nil},
	} {
		t.Run("completes "+name, func(t *testing.T) {
			t.Parallel()
			args := append(append([]string{"__complete", "effective", "-f", dir}, tc.args...), "--key", "")
			if diff := cmp.Diff(tc.want, mustComplete(t, args...)); diff != "" {
				t.Errorf("completions (-want +got):\n%s", diff)
			}
		})
	}
}
