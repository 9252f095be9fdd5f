package envoy_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/internal/golden"
	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

// options is an options.yaml: what an installation decides, and what of the outcome a case is about.
type options struct {
	Settings envoy.Settings `json:"settings"`
	// Missing names Secrets that are not there. All others that the gateway names are, and hold REDACTED.
	Missing []string `json:"missing,omitempty"`
	// Show lists paths into the outcome. Each step is a field, or "*" for all elements of a list, or the name of one. Absent
	// means everything but secrets.
	Show []string `json:"show,omitempty"`
}

// TestGolden compares what the Envoys of a gateway are told with the golden file, or with as much of it as the case shows.
func TestGolden(t *testing.T) {
	t.Parallel()
	for _, name := range golden.Cases(t, "testdata", "gateway.yaml") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join("testdata", name)
			o := readOptions(t, dir)
			g := readGateway(t, dir)
			o.Settings.Secrets = o.redacted
			o.Settings.SystemRoots = []byte("REDACTED")
			r, err := envoy.Build(g, o.Settings)
			if err != nil {
				t.Fatal(err)
			}
			at := policy.Endpoint{Address: "127.0.0.1", Port: 8081}
			all := map[string]any{
				"bootstrap": tree(t, envoy.Bootstrap(g.Name, "envoy-0", envoy.Servers{XDS: at, Service: policy.Endpoint{Address: "tierkeeper.svc", Port: 8082}})),
				"listeners": trees(t, r.Listeners),
				"routes":    trees(t, r.Routes),
				"clusters":  trees(t, r.Clusters),
			}
			if r.Secrets != nil {
				all["secrets"] = trees(t, r.Secrets)
			}
			content, err := yaml.Marshal(shown(t, all, o.Show))
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, dir, map[string][]byte{"envoy.yaml": content}, "gateway.yaml", "options.yaml")
		})
	}
}

func (o options) redacted(v policy.SecretValue) []byte {
	if slices.Contains(o.Missing, v.Secret.Name) {
		return nil
	}
	return []byte("REDACTED")
}

func readOptions(t testing.TB, dir string) (o options) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "options.yaml"))
	if os.IsNotExist(err) {
		return o
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(content, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// readGateway reads the only gateway of a case as a user's directory is read, so that no case shows what nobody can write.
func readGateway(t testing.TB, dir string) *policy.Gateway {
	t.Helper()
	var loader manifest.Loader
	found := loader.Load(filepath.Join(dir, "gateway.yaml"))
	for _, p := range found.Problems {
		t.Error(p)
	}
	table, verdicts := policy.Compile(found.Input)
	for _, v := range verdicts {
		for _, p := range v.Problems {
			if p.Reason != v1alpha1.ReasonSecretNotFound { // see options.Missing
				t.Errorf("%s: %s: %s", v.Object, p.Field, p.Message)
			}
		}
	}
	if t.Failed() || len(table.Gateways()) != 1 {
		t.Fatalf("%s: %d gateways are in order, want one", dir, len(table.Gateways()))
	}
	return table.Gateways()[0]
}

func trees[T proto.Message](t testing.TB, messages []T) []any {
	t.Helper()
	var all []any
	for _, m := range messages {
		all = append(all, tree(t, m))
	}
	return all
}

// tree is a message as YAML would show it, with what is packed in it.
func tree(t testing.TB, m proto.Message) (v any) {
	t.Helper()
	content, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// shown leaves of a tree what the paths lead to. A path that leads nowhere is a mistake in the case.
func shown(t testing.TB, all any, paths []string) any {
	t.Helper()
	if paths == nil {
		paths = []string{"listeners", "routes", "clusters"}
	}
	var steps [][]string
	for _, p := range paths {
		steps = append(steps, strings.Split(p, "/"))
		if prune(all, [][]string{strings.Split(p, "/")}) == nil {
			t.Errorf("the path %s leads nowhere", p)
		}
	}
	return prune(all, steps)
}

// prune returns nil where no path leads to anything.
func prune(v any, paths [][]string) any {
	if slices.ContainsFunc(paths, func(p []string) bool { return len(p) == 0 }) {
		return v
	}
	switch v := v.(type) {
	case map[string]any:
		kept := map[string]any{}
		for key, value := range v {
			if part := prune(value, behind(paths, key)); part != nil {
				kept[key] = part
			}
		}
		if len(kept) > 0 {
			return kept
		}
	case []any:
		var kept []any
		for _, value := range v {
			steps := []string{"*"}
			if fields, ok := value.(map[string]any); ok {
				name, _ := fields["name"].(string)
				steps = append(steps, name)
			}
			if part := prune(value, behind(paths, steps...)); part != nil {
				kept = append(kept, part)
			}
		}
		if kept != nil {
			return kept
		}
	}
	return nil
}

// behind returns what follows one of the steps in each path that begins with it.
func behind(paths [][]string, steps ...string) [][]string {
	var rest [][]string
	for _, p := range paths {
		if slices.Contains(steps, p[0]) {
			rest = append(rest, p[1:])
		}
	}
	return rest
}
