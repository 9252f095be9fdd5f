package command_test

import (
	"fmt"
	"strings"
	"testing"
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
