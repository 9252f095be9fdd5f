package replicas_test

import (
	"fmt"
	"strings"

	"github.com/tierkeeper/tierkeeper/policy"
)

// tenant is the namespace of the gateway, and of keys that name no other.
const tenant = "team"

// gateway takes the keys of all tenants.
const gateway = `
apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {name: edge, namespace: team}
spec:
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends: [{name: demo, endpoints: [{address: 127.0.0.1, port: 8090}]}]
  routes:
  - {name: chat, matches: [{path: {type: Exact, value: /v1/chat/completions}}], type: Backend, backendName: demo, protocol: OpenAIChatCompletions, resource: chat}
  identity: {sources: [{header: Authorization, prefix: "Bearer "}]}
  allowedKeys: {namespaces: {from: All}}
`

// tier is a plan with limits as in "{rates: [{metric: Requests, per: Day, max: 5}]}".
func tier(name, limits string) string {
	return fmt.Sprintf("apiVersion: tierkeeper.io/v1alpha1\nkind: RateLimitTier\nmetadata: {name: %s}\nspec: {limits: %s}", name, limits)
}

// rate is a limit of requests in a day, and nothing else.
func rate(most int) string {
	return fmt.Sprintf("{rates: [{metric: Requests, per: Day, max: %d}]}", most)
}

// model is a group of models of the same name, with limits that all share.
func model(name, shared string) string {
	return fmt.Sprintf("apiVersion: tierkeeper.io/v1alpha1\nkind: ModelLimit\nmetadata: {name: %[1]s}\nspec: {models: [%[1]s], shared: %[2]s}", name, shared)
}

// holder is a quota on a tier, as name or namespace/name. Its key is keyOf(name).
func holder(name, tier string) string {
	namespace, short, found := strings.Cut(name, "/")
	if !found {
		namespace, short = tenant, name
	}
	return fmt.Sprintf(`apiVersion: tierkeeper.io/v1alpha1
kind: ApiKeyQuota
metadata: {name: %s, namespace: %s}
spec:
  keys: [{name: main, digest: %q}]
  tierRef: {name: %s}`, short, namespace, policy.HashKey([]byte(keyOf(name))), tier)
}

func keyOf(holder string) string { return "sk-" + holder }
