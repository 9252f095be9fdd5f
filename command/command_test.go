package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/command"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

const (
	quickstart = "../config/samples/quickstart"
	keyTiers   = "../config/samples/key-tiers"
)

// run runs a command line and returns its exit code and what it printed.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return runFor(t.Context(), args...)
}

// runFor is run for as long as ctx goes on.
func runFor(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = command.Execute(ctx, append([]string{"/usr/bin/tierkeeper"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

// atOneTime keeps the time at which it is called, however long other tests have their turn: no window ends, and no slot expires.
func atOneTime() ratelimit.Option {
	now := time.Now()
	return ratelimit.WithClock(func() time.Time { return now })
}

// mustRun is run of a command line that succeeds.
func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := run(t, args...)
	if code != 0 || stderr != "" {
		t.Fatalf("%q exits with %d and says %q", args, code, stderr)
	}
	return stdout
}

func put(t *testing.T, content string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	other := put(t, "kind: Deployment\napiVersion: apps/v1\n")
	cases := map[string]struct {
		args []string
		code int
		says string
	}{
		"nothing":                 {nil, 0, ""},
		"help":                    {[]string{"compile", "--help"}, 0, ""},
		"version":                 {[]string{"version"}, 0, ""},
		"accepted":                {[]string{"compile", "-f", quickstart}, 0, ""},
		"no directory":            {[]string{"compile"}, 2, "Error: flag -f is missing; it names the directory of manifests\nRun \"tierkeeper compile --help\" to see what it takes.\n"},
		"no key":                  {[]string{"effective", "-f", quickstart}, 2, "Error: flag --key is missing; it names an ApiKeyQuota as NAMESPACE/NAME\nRun \"tierkeeper effective --help\" to see what it takes.\n"},
		"unknown format":          {[]string{"compile", "-f", quickstart, "-o", "xml"}, 2, "Error: invalid argument \"xml\" for \"-o, --output\" flag: must be one of text, json, yaml\nRun \"tierkeeper compile --help\" to see what it takes.\n"},
		"unknown flag":            {[]string{"keygen", "--size", "5"}, 2, "Error: unknown flag: --size\nRun \"tierkeeper keygen --help\" to see what it takes.\n"},
		"argument where none can": {[]string{"compile", quickstart}, 2, "Error: \"" + quickstart + "\" has no flag before it; the form is: tierkeeper compile -f DIR [flags]\nRun \"tierkeeper compile --help\" to see what it takes.\n"},
		"unknown command":         {[]string{"compil"}, 2, "Error: unknown command \"compil\" for \"tierkeeper\"\n\nDid you mean this?\n\tcompile\n\nRun \"tierkeeper --help\" to see what it takes.\n"},
		"directory that is gone":  {[]string{"compile", "-f", filepath.Join(empty, "x")}, 1, "Error: 1 file or document cannot be read\n"},
		"directory without files": {[]string{"compile", "-f", empty}, 1, "Error: 1 file or document cannot be read\n"},
		"objects of others only":  {[]string{"compile", "-f", other}, 1, "Error: there is no object of tierkeeper.io in " + other + "\n"},
		"key that nobody has":     {[]string{"effective", "-f", quickstart, "--key", "demo-fre"}, 1, "Error: there is no ApiKeyQuota default/demo-fre in " + quickstart + "; did you mean default/demo-free?\n"},
		"key in a wrong place":    {[]string{"effective", "-f", keyTiers, "--key", "team/basic"}, 1, "Error: there is no ApiKeyQuota team/basic in " + keyTiers + "; did you mean default/basic?\n"},
		"key unlike any":          {[]string{"effective", "-f", keyTiers, "--key", "team/zebra"}, 1, "Error: there is no ApiKeyQuota team/zebra in " + keyTiers + "; there are default/basic, default/enterprise, default/free, default/pro\n"},
		"admin for everybody":     {[]string{"standalone", "--manifests", quickstart, "--envoy", "none", "--data-dir", empty, "--admin-address", "0.0.0.0:0"}, 1, "Error: starting admin (see --admin-address and --admin-token-file): other machines may reach 0.0.0.0:0: name a file that holds a token, or choose an address of loopback\n"},
		"unknown level":           {[]string{"ratelimit", "--manifests", quickstart, "--log-level", "loud"}, 2, "Error: --log-level \"loud\" is not one of debug, info, warn, error\nRun \"tierkeeper ratelimit --help\" to see what it takes.\n"},
		"lease key of another":    {[]string{"standalone", "--manifests", quickstart, "--service", "127.0.0.1:1", "--lease-key-file", "k"}, 2, "Error: --lease-key-file is for the process that signs leases: give it to the one at --service\nRun \"tierkeeper standalone --help\" to see what it takes.\n"},
		"service in the open":     {[]string{"ratelimit", "--manifests", quickstart, "--data-dir", empty, "--address", "0.0.0.0:8081"}, 1, "Error: starting the rate-limit service (choose where with --address, as host:port): 0.0.0.0:8081 is not on loopback, and what goes there carries keys: give certificates with --cert, --key and --ca, or an address of this machine such as 127.0.0.1\n"},
		"memory without a unit":   {[]string{"standalone", "--manifests", quickstart, "--memory-limit", "512"}, 2, "Error: --memory-limit 512 is less than 16Mi, which no service can do with: write a unit, as in 512Mi\nRun \"tierkeeper standalone --help\" to see what it takes.\n"},
		"no garbage to speak of":  {[]string{"ratelimit", "--manifests", quickstart, "--gc-percent", "0"}, 2, "Error: --gc-percent 0 is below 1: give more, such as 400\nRun \"tierkeeper ratelimit --help\" to see what it takes.\n"},
		"service elsewhere":       {[]string{"standalone", "--manifests", quickstart, "--data-dir", empty, "--envoy", "none", "--service", "10.0.0.1:8081"}, 1, "Error: finding the rate-limit service (name it with --service, as host:port): 10.0.0.1:8081 is not on loopback: calls carry API keys and are not encrypted, so they must not leave the machine; use 127.0.0.1:8081\n"},
		"admin without a port":    {[]string{"ratelimit", "--manifests", quickstart, "--data-dir", empty, "--admin-address", "localhost"}, 1, "Error: starting admin (see --admin-address and --admin-token-file): reading host:port: address localhost: missing port in address\n"},
		"key without any":         {[]string{"effective", "-f", other, "--key", "a/b"}, 1, "Error: there is no ApiKeyQuota a/b in " + other + ", nor any other\n"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, _, stderr := run(t, tc.args...)
			if code != tc.code {
				t.Errorf("want exit code %d, got %d", tc.code, code)
			}
			if diff := cmp.Diff(tc.says, stderr); diff != "" {
				t.Errorf("stderr (-want +got):\n%s", diff)
			}
		})
	}
}

// As a plugin of kubectl, help shows what to type.
func TestPluginName(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	code := command.Execute(t.Context(), []string{"/opt/bin/kubectl-tierkeeper", "compile", "--help"}, &out, &errs)
	if code != 0 || !strings.Contains(out.String(), "\n  kubectl tierkeeper compile -f DIR") || strings.Contains(out.String(), "{{") {
		t.Errorf("exit code %d, want help for a plugin, got\n%s%s", code, out.String(), errs.String())
	}
}

func TestEveryCommandTeaches(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"standalone", "operator", "ratelimit", "compile", "effective", "keygen", "bootstrap", "blocks", "usage", "shadow"} {
		help := mustRun(t, name, "--help")
		if !strings.Contains(help, "Examples:\n  # ") || !strings.Contains(help, "  tierkeeper "+name) {
			t.Errorf("want examples in the help of %s, got\n%s", name, help)
		}
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	if script := mustRun(t, "completion", "bash"); !strings.Contains(script, "__start_tierkeeper") {
		t.Errorf("want a script, got %.200q", script)
	}
	code, out, _ := run(t, "__complete", "compile", "-o", "")
	if code != 0 || !strings.HasPrefix(out, "text\njson\nyaml\n") {
		t.Errorf("exit code %d, want the formats, got %q", code, out)
	}
}

func TestKeygen(t *testing.T) {
	t.Parallel()
	type pair struct{ Key, Digest string }
	seen := map[string]bool{}
	for range 100 {
		var got pair
		if err := json.Unmarshal([]byte(mustRun(t, "keygen", "-o", "json")), &got); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(got.Key, "tk-") || len(got.Key) != len("tk-")+43 || strings.ContainsAny(got.Key, "+/= ,") {
			t.Errorf("want a key for a header, got %q", got.Key)
		}
		if want := policy.ReadKey([]byte(got.Key)); want.Invalid || want.Digest.String() != got.Digest {
			t.Errorf("want the digest %s, got %s", want.Digest, got.Digest)
		}
		if seen[got.Key] {
			t.Errorf("the key %q came twice", got.Key)
		}
		seen[got.Key] = true
	}
	var fromYAML pair
	if err := yaml.Unmarshal([]byte(mustRun(t, "keygen", "-o", "yaml")), &fromYAML); err != nil || fromYAML.Key == "" {
		t.Errorf("want a key in YAML, got %+v, %v", fromYAML, err)
	}
}

// What keygen tells to write is accepted as it stands.
func TestKeygenText(t *testing.T) {
	t.Parallel()
	text := mustRun(t, "keygen")
	_, manifests, found := strings.Cut(text, "\n  apiVersion: v1\n")
	if !found {
		t.Fatalf("want a Secret, got\n%s", text)
	}
	_, digest, _ := strings.Cut(text, "digest:  ")
	digest, _, _ = strings.Cut(digest, "\n")
	dir := put(t, "  apiVersion: v1\n"+manifests+`
---
apiVersion: tierkeeper.io/v1alpha1
kind: RateLimitTier
metadata: {name: free}
spec: {priority: Low}
---
apiVersion: tierkeeper.io/v1alpha1
kind: ApiKeyQuota
metadata: {name: by-secret}
spec:
  tierRef: {name: free}
  keys: [{name: primary, secretKeyRef: {name: my-key, key: token}}]
`)
	table := mustRun(t, "compile", "-f", dir, "--table")
	if !strings.Contains(table, digest) {
		t.Errorf("want the digest %s in the table, got\n%s", digest, table)
	}
	if strings.Contains(table, "tk-") {
		t.Errorf("want no key in the table, got\n%s", table)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if got := mustRun(t, "version"); !strings.HasPrefix(got, "tierkeeper") || !strings.Contains(got, "go1.") || got != mustRun(t, "--version") {
		t.Errorf("got %q", got)
	}
}

func TestCompileShowsWhatEnvoyIsTold(t *testing.T) {
	t.Parallel()
	var told map[string]struct {
		Listener           []struct{ Name string }
		RouteConfiguration []struct{ Name string }
		Cluster            []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(mustRun(t, "compile", "-f", "../config/samples/quickstart", "--envoy", "-o", "json")), &told); err != nil {
		t.Fatal(err)
	}
	main := told["default/main"]
	if len(main.Listener) != 1 || main.Listener[0].Name != "default/main/http" ||
		len(main.RouteConfiguration) != 1 || main.RouteConfiguration[0].Name != "default/main" ||
		len(main.Cluster) != 1 || main.Cluster[0].Name != "default/main/demo" {
		t.Errorf("got %+v, want a listener, a route configuration and a cluster of default/main", told)
	}
}
