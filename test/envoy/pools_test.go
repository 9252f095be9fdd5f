package envoy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A tier with a pool is served by the pool's endpoints and no others, and nobody else is, whatever they say.
func TestAPoolServesItsTiersAndNobodyElse(t *testing.T) {
	t.Parallel()
	shared1, shared2, dedicated, plain := newWitness(t), newWitness(t), newWitness(t), newWitness(t)
	s := startWithoutDemo(t, manifests(fmt.Sprintf(`
apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {name: main}
spec:
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends:
  - name: pooled
    endpoints:
    - {address: 127.0.0.1, port: %d}
    - {address: 127.0.0.1, port: %d}
    - {address: 127.0.0.1, port: %d, pool: dedicated}
  - name: plain
    endpoints: [{address: 127.0.0.1, port: %d}]
  routes:
  - {name: chat, matches: [{path: {type: Exact, value: /v1/chat/completions}}], type: Backend, backendName: pooled, protocol: OpenAIChatCompletions, resource: chat}
  - {name: plain, matches: [{path: {type: Exact, value: /plain}}], type: Backend, backendName: plain, protocol: OpenAIChatCompletions, resource: chat}
  - {name: free, matches: [{path: {type: Exact, value: /unmetered}}], type: Backend, backendName: pooled, protocol: OpaqueBody, metering: Unmetered}
  identity: {sources: [{header: Authorization, prefix: "Bearer "}]}
`, portOf(shared1.Listener), portOf(shared2.Listener), portOf(dedicated.Listener), portOf(plain.Listener)),
		tier("free", "{metric: Requests, per: Day, max: 1000}"),
		strings.Replace(tier("enterprise", "{metric: Requests, per: Day, max: 1000}"), "spec:", "spec:\n  backendPool: dedicated", 1),
		strings.Replace(tier("mistyped", "{metric: Requests, per: Day, max: 1000}"), "spec:", "spec:\n  backendPool: dedicatde", 1),
		holder("free", "free", "key-free"), holder("enterprise", "enterprise", "key-enterprise"), holder("mistyped", "mistyped", "key-mistyped")))
	type served struct{ shared, dedicated, plain int }
	for name, tc := range map[string]struct {
		path, key string
		header    []string
		want      served
	}{
		"its own tier":                 {chatPath, "key-enterprise", nil, served{dedicated: 20}},
		"its own tier, not counted":    {"/unmetered", "key-enterprise", nil, served{dedicated: 20}},
		"its own tier, forging":        {chatPath, "key-enterprise", []string{"x-tk-pool: *"}, served{dedicated: 20}},
		"a backend without pools":      {"/plain", "key-enterprise", nil, served{plain: 20}},
		"a tier without":               {chatPath, "key-free", nil, served{shared: 20}},
		"a tier without, not counted":  {"/unmetered", "key-free", nil, served{shared: 20}},
		"a tier without, forging":      {chatPath, "key-free", []string{"x-tk-pool: dedicated", "X-TK-Pool: dedicated"}, served{shared: 20}},
		"forging where nothing counts": {"/unmetered", "key-free", []string{"x-tk-pool: dedicated"}, served{shared: 20}},
		"a pool that nobody is in":     {chatPath, "key-mistyped", nil, served{shared: 20}},
	} {
		for range 20 {
			s.pass(t, request{path: tc.path, key: tc.key, body: prompt{model: name}.chat(), header: append(tc.header, "x-case: "+name)})
		}
		shared := slices.Concat(shared1.of(name), shared2.of(name))
		if got := (served{len(shared), len(dedicated.of(name)), len(plain.of(name))}); got != tc.want {
			t.Errorf("%s: served by %+v, want %+v", name, got, tc.want)
		}
		for _, r := range slices.Concat(shared, dedicated.of(name), plain.of(name)) {
			if got := r.Header.Values("x-tk-pool"); got != nil {
				t.Errorf("%s: the provider got x-tk-pool: %q", name, got)
			}
		}
	}
	s.pass(t, chat("key-enterprise", prompt{model: "settled"}))
	if _, settled := s.settlement(t, "settled"); settled["inputTokens"] != "5" || settled["outputTokens"] != "7" {
		t.Errorf("a request of a pool was settled as %v, want 5 and 7 tokens", settled)
	}
}
