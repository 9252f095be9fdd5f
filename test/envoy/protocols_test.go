package envoy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/policy"
)

const fixtures = "testdata/fixtures"

// A fixture is an answer in the shape that a provider documents, and what must be counted for it.
type fixture struct {
	File, Protocol, ContentType string
	Input, Cached, Output       int64
}

func readFixtures(t *testing.T) []fixture {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(fixtures, "index.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var all []fixture
	if err := yaml.UnmarshalStrict(content, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// bodyFor is the smallest request of a protocol for the model. A form says its model in a field, which nobody reads here.
func bodyFor(protocol, model string) (body, contentType string) {
	fields := map[string]any{"model": model}
	switch protocol {
	case "OpenAIChatCompletions", "AnthropicMessages":
		fields["max_tokens"] = 64
		fields["messages"] = []map[string]string{{"role": "user", "content": "Hello"}}
	case "OpenAICompletions", "OpenAIImages":
		fields["prompt"] = "Hello"
	case "OpenAIResponses", "OpenAIEmbeddings":
		fields["input"] = "Hello"
	case "GeminiGenerateContent":
		fields = map[string]any{"contents": []any{map[string]any{"parts": []any{map[string]string{"text": "Hello"}}}}}
	case "OpenAITranscriptions":
		return "--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nother\r\n--x--\r\n", "multipart/form-data; boundary=x"
	}
	return jsonOf(fields), "application/json"
}

// replay is a gateway with one route for each fixture, and a provider that answers with the fixture.
func replay(t *testing.T, all []fixture) *system {
	t.Helper()
	envoyBinary(t)
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.Split(r.URL.Path, "/")[1]
		for _, f := range all {
			if f.File == name {
				w.Header().Set("Content-Type", f.ContentType)
				http.ServeFile(w, r, filepath.Join(fixtures, f.File))
				return
			}
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(provider.Close)
	var routes strings.Builder
	for i, f := range all {
		match, model := "{type: Exact, value: /"+f.File+"}", ""
		switch f.Protocol {
		case "GeminiGenerateContent":
			match = "{type: PathPrefix, value: /" + f.File + "/models}"
		case "OpenAITranscriptions":
			model = ", model: " + f.File
		}
		fmt.Fprintf(&routes, "  - {name: route-%d, type: Backend, backendName: provider, protocol: %s, resource: chat, matches: [{path: %s}]%s}\n",
			i, f.Protocol, match, model)
	}
	s := startWithoutDemo(t, manifests(fmt.Sprintf(`
apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {name: main}
spec:
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends: [{name: provider, endpoints: [{address: 127.0.0.1, port: %d}]}]
  routes:
%s  identity: {sources: [{header: Authorization, prefix: "Bearer "}]}
`, portOf(provider.Listener), routes.String()),
		tier("large", "{metric: Tokens, per: Day, max: 1000000}"), holder("streams", "large", keyStreams)))
	return s
}

// path is where a fixture is asked for. Gemini's model and method stand in the path.
func (f *fixture) path() string {
	if f.Protocol != "GeminiGenerateContent" {
		return "/" + f.File
	}
	method := "generateContent"
	if strings.Contains(f.File, "stream") {
		method = "streamGenerateContent"
	}
	if path.Ext(f.File) == ".sse" {
		method += "?alt=sse"
	}
	return "/" + f.File + "/models/" + f.File + ":" + method
}

// Whatever provider, form and case: what it reports is what is charged, and the answer passes byte for byte.
func TestWhatEachProviderReportsIsCharged(t *testing.T) {
	t.Parallel()
	all := readFixtures(t)
	s := replay(t, all)
	seen := map[string]bool{}
	for _, f := range all {
		seen[f.Protocol] = true
		body, contentType := bodyFor(f.Protocol, f.File)
		a := s.send(t, request{path: f.path(), key: keyStreams, body: body, contentType: contentType})
		want, err := os.ReadFile(filepath.Join(fixtures, f.File))
		if err != nil {
			t.Fatal(err)
		}
		if a.status != http.StatusOK || a.body != string(want) || a.header.Get("Content-Type") != f.ContentType {
			t.Errorf("%s: status %d of type %q, not the fixture:\n%s", f.File, a.status, a.header.Get("Content-Type"), a.body)
			continue
		}
		_, settled := s.settlement(t, f.File)
		got := fixture{f.File, f.Protocol, f.ContentType, settled.number(t, "inputTokens"), settled.number(t, "cachedTokens"), settled.number(t, "outputTokens")}
		if got != f || settled["inputEstimated"] != "false" || settled["outputEstimated"] != "false" {
			t.Errorf("charged %v, want %v; %v", got, f, settled)
		}
	}
	for _, p := range policy.Protocols() {
		if hasNoShape := p == policy.Opaque || p == policy.JSONBody; !seen[p.String()] && !hasNoShape {
			t.Errorf("no fixture is of protocol %s", p)
		}
	}
}
