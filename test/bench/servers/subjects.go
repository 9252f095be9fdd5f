package servers

import (
	"fmt"
	"strings"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/test/bench/calls"
)

// A Kind is a set of subjects, for ours API keys, whose limits are alike. Every server knows all kinds.
type Kind struct {
	Name   string
	PerDay int // requests that the first limit of a subject allows; the others allow what nobody reaches
}

// The kinds.
var (
	Below = Kind{"below", plenty}
	Above = Kind{"above", 10}
	Exact = Kind{"exact", 1_000} // each for one count of what is let through
)

var kinds = []Kind{Below, Above, Exact}

const plenty = 1_000_000_000

// pairs are the limits of a subject, as many as are wanted from the first on. For a peer the unit alone matters.
var pairs = []struct{ metric, per string }{
	{"Requests", "Day"},
	{"Requests", "Minute"},
	{"Tokens", "Minute"},
	{"Tokens", "Day"},
	{"InputTokens", "Minute"},
	{"OutputTokens", "Minute"},
	{"InputTokens", "Day"},
	{"OutputTokens", "Day"},
}

// MostTries is how many subjects of Exact there are.
const MostTries = 50

// A Setup says what limits there are.
type Setup struct {
	Keys   int // of Below, and a tenth of Above
	Limits int // of each subject, 1 to MostLimits
}

// Subjects is how many there are of a kind.
func (s Setup) Subjects(k Kind) int {
	switch k {
	case Below:
		return s.Keys
	case Above:
		return max(s.Keys/10, 1)
	default:
		return MostTries
	}
}

// MostLimits is how many limits a subject can have.
var MostLimits = len(pairs)

// quota holds one API key, by its digest.
const quota = `---
{apiVersion: tierkeeper.io/v1alpha1, kind: ApiKeyQuota, metadata: {name: %[1]s-%[2]d, namespace: team}, spec: {tierRef: {name: %[1]s}, keys: [{name: main, digest: "%[3]s"}]}}
`

// gateway says what answers tell; a backend must stand in it.
const gateway = `apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {name: edge, namespace: team}
spec:
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends: [{name: provider, endpoints: [{address: 127.0.0.1, port: %d}]}]
  routes:
  - name: chat
    type: Backend
    backendName: provider
    protocol: OpenAIChatCompletions
    resource: chat
    matches: [{method: POST, path: {type: Exact, value: /v1/chat/completions}}]
  identity: {sources: [{header: Authorization, prefix: "Bearer "}, {header: x-api-key}]}
  headers:
    dialects:
    - {type: PerMetric, perMetric: {requestsReset: Duration, tokensReset: Duration}}
    - {type: PerResource}
`

// Manifests say of every subject what limits it has.
func (s Setup) Manifests(concurrency bool, upstreamPort int) string {
	var out strings.Builder
	fmt.Fprintf(&out, gateway, upstreamPort)
	for _, k := range kinds {
		fmt.Fprintf(&out, "---\napiVersion: tierkeeper.io/v1alpha1\nkind: RateLimitTier\nmetadata: {name: %s}\nspec:\n  limits:\n    rates:\n", k.Name)
		for i, p := range pairs[:s.Limits] {
			fmt.Fprintf(&out, "    - {metric: %s, per: %s, max: %d}\n", p.metric, p.per, k.max(i))
		}
		if concurrency {
			fmt.Fprintf(&out, "    concurrency: {max: 1000}\n")
		}
		for i := range s.Subjects(k) {
			fmt.Fprintf(&out, quota, k.Name, i, policy.HashKey([]byte(calls.APIKey(k.Name, i))))
		}
	}
	return out.String()
}

// peerConfig says the same to envoyproxy/ratelimit, which needs no list of subjects.
func (s Setup) peerConfig() string {
	var out strings.Builder
	fmt.Fprintf(&out, "domain: %s\ndescriptors:\n", calls.PeerDomain)
	for _, k := range kinds {
		for i, p := range pairs[:s.Limits] {
			fmt.Fprintf(&out, "- {key: %s, rate_limit: {unit: %s, requests_per_unit: %d}}\n",
				calls.DescriptorKey(k.Name, i), strings.ToLower(p.per), k.max(i))
		}
	}
	return out.String()
}

func (k Kind) max(limit int) int {
	if limit == 0 {
		return k.PerDay
	}
	return plenty
}
