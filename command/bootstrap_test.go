package command_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/internal/golden"
)

// Each folder of testdata/bootstrap holds flags, one a line, and the files that bootstrap writes by them.
func TestBootstrap(t *testing.T) {
	t.Parallel()
	for _, name := range golden.Cases(t, "testdata/bootstrap", "flags") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join("testdata", "bootstrap", name)
			into := t.TempDir()
			says := mustRun(t, append([]string{"bootstrap", "--dir", into}, flagsIn(t, dir)...)...)
			outputs := filesIn(t, into)
			outputs["stdout"] = []byte(strings.ReplaceAll(says, into, "DIR"))
			golden.Check(t, dir, outputs, "flags")
		})
	}
}

func flagsIn(t *testing.T, dir string) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "flags"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(content))
}

func filesIn(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, e := range entries {
		if all[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// What is printed is what is written, in every form.
func TestBootstrapPrints(t *testing.T) {
	t.Parallel()
	const dir = "testdata/bootstrap/on-one-machine"
	want := string(filesIn(t, dir)["envoy.yaml"])
	for _, form := range []string{"text", "yaml"} {
		if diff := cmp.Diff(want, mustRun(t, append(append([]string{"bootstrap"}, flagsIn(t, dir)...), "-o", form)...)); diff != "" {
			t.Errorf("printed as %s (-want +got):\n%s", form, diff)
		}
	}
	fromJSON, err := yaml.JSONToYAML([]byte(mustRun(t, append(append([]string{"bootstrap"}, flagsIn(t, dir)...), "-o", "json")...)))
	if diff := cmp.Diff(want, string(fromJSON)); diff != "" || err != nil {
		t.Errorf("printed as JSON: %v (-want +got):\n%s", err, diff)
	}
}

func TestBootstrapNamesTheEnvoyAfterItsMachine(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	var got bootstrapv3.Bootstrap
	out := mustRun(t, "bootstrap", "--gateway", "a/b", "--xds", "127.0.0.1:1", "--service", "127.0.0.1:2", "-o", "json")
	if err := protojson.Unmarshal([]byte(out), &got); err != nil || got.GetNode().GetId() != host || got.GetNode().GetCluster() != "a/b" {
		t.Errorf("got node %v and %v, want id %s", got.GetNode(), err, host)
	}
}

func TestBootstrapSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	const certs = " --cert /c/tls.crt --key /c/tls.key --ca /c/ca.crt"
	for name, tc := range map[string]struct{ flags, want string }{
		"nothing":                    {"", "flag --gateway is missing or incomplete; it names a QuotaGateway as NAMESPACE/NAME"},
		"a gateway of no namespace":  {"--gateway main", "flag --gateway is missing or incomplete"},
		"no server":                  {"--gateway a/b --service 127.0.0.1:1", "--xds is missing or incomplete; it says as host:port where the server is"},
		"no service":                 {"--gateway a/b --xds 127.0.0.1:1", "--service is missing or incomplete"},
		"a server without a port":    {"--gateway a/b --xds xds.tierkeeper" + certs, "--xds is missing or incomplete"},
		"a port that TCP lacks":      {"--gateway a/b --xds 127.0.0.1:70000", "--xds: reading port of 127.0.0.1:70000"},
		"no certificates":            {"--gateway a/b --xds xds.tierkeeper:1 --service 127.0.0.1:1", "--xds: xds.tierkeeper:1 is not on loopback, and what goes there carries keys: give certificates with --cert, --key and --ca"},
		"certificates in part":       {"--gateway a/b --xds x:1 --service y:1 --cert /c", "--key is missing: --cert, --key and --ca go together"},
		"nowhere to write to":        {"--gateway a/b --xds x:1 --service y:1" + certs, "--dir is missing: with certificates Envoy needs files beside its bootstrap"},
		"a path from somewhere":      {"--gateway a/b --xds x:1 --service y:1 --dir d --cert c --key /k --ca /a", "--cert c is not absolute"},
		"halves in different places": {"--gateway a/b --xds x:1 --service y:1 --dir d --cert /c/c --key /k/k --ca /a", "--cert and --key are in different directories; put them into one"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, _, stderr := run(t, append([]string{"bootstrap"}, strings.Fields(tc.flags)...)...)
			if code != 2 || !strings.Contains(stderr, tc.want) {
				t.Errorf("exit code %d and %q, want 2 and %q", code, stderr, tc.want)
			}
		})
	}
}
