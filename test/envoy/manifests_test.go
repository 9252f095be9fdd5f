package envoy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// manifests joins documents to one file.
func manifests(docs ...string) map[string]string {
	return map[string]string{"all.yaml": strings.Join(docs, "\n---\n")}
}

// gateway serves everything that the demo upstream does. Both resets are times, so that answers can be sorted by window.
const gateway = `
apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {name: main}
spec:
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends: [{name: demo, endpoints: [{address: 127.0.0.1, port: 8090}]}]
  routes:
  - {name: chat, matches: [{path: {type: Exact, value: /v1/chat/completions}, method: POST}], type: Backend, backendName: demo, protocol: OpenAIChatCompletions, resource: chat}
  - {name: messages, matches: [{path: {type: Exact, value: /v1/messages}, method: POST}], type: Backend, backendName: demo, protocol: AnthropicMessages, resource: chat}
  - {name: embeddings, matches: [{path: {type: Exact, value: /v1/embeddings}, method: POST}], type: Backend, backendName: demo, protocol: OpenAIEmbeddings, resource: embeddings}
  - {name: images, matches: [{path: {type: PathPrefix, value: /v1/images}}], type: Backend, backendName: demo, protocol: OpaqueBody, resource: images}
  identity:
    sources: [{header: Authorization, prefix: "Bearer "}, {header: x-api-key}, {queryParameter: key}]
  requests: {maxBodyBytes: 65536}
  headers:
    dialects:
    - {type: PerMetric, perMetric: {requestsReset: UnixSeconds, tokensReset: UnixSeconds}}
    - {type: PerResource}
`

// tier is a plan with the given limits, each as in "{metric: Requests, per: Day, max: 5}", or "concurrency: 5".
func tier(name string, limits ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: tierkeeper.io/v1alpha1\nkind: RateLimitTier\nmetadata: {name: %s}\nspec:\n  limits:\n", name)
	rates := "    rates:\n"
	for _, l := range limits {
		if most, ok := strings.CutPrefix(l, "concurrency: "); ok {
			fmt.Fprintf(&b, "    concurrency: {max: %s}\n", most)
			continue
		}
		b.WriteString(rates + "    - " + l + "\n")
		rates = ""
	}
	return b.String()
}

// holder is a quota on a tier, with a key in a Secret.
func holder(name, tier, key string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: %[1]s-key, labels: {tierkeeper.io/secret: "true"}}
stringData: {token: %[3]q}
---
apiVersion: tierkeeper.io/v1alpha1
kind: ApiKeyQuota
metadata: {name: %[1]s}
spec:
  keys: [{name: primary, secretKeyRef: {name: %[1]s-key, key: token}}]
  tierRef: {name: %[2]s}
`, name, tier, key)
}

// sample reads a folder of config/samples.
func sample(t *testing.T, name string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "config", "samples", name, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("sample %s has no manifests: %v", name, err)
	}
	all := map[string]string{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(file)] = string(content)
	}
	return all
}

// edit replaces text that stands in exactly one of the files, once, and returns the file's name and new content.
func edit(t *testing.T, files map[string]string, before, after string) (name, content string) {
	t.Helper()
	for file, text := range files {
		switch strings.Count(text, before) {
		case 0:
			continue
		case 1:
			if name == "" {
				name, content = file, strings.Replace(text, before, after, 1)
				continue
			}
		}
		t.Fatalf("%q stands in the manifests more than once", before)
	}
	if name == "" {
		t.Fatalf("%q does not stand in the manifests", before)
	}
	return name, content
}
