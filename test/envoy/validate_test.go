package envoy_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/internal/testca"
	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

// TestEnvoyAcceptsEveryGolden asks the real Envoy about every gateway of the golden tests and of the samples.
func TestEnvoyAcceptsEveryGolden(t *testing.T) {
	t.Parallel()
	binary := envoyBinary(t)
	for _, pattern := range []string{"../../xds/envoy/testdata/*", "../../config/samples/*"} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if len(dirs) == 0 {
			t.Errorf("there is nothing in %s", pattern)
		}
		for _, dir := range dirs {
			t.Run(filepath.Base(dir), func(t *testing.T) {
				t.Parallel()
				settings := settingsIn(t, dir)
				for _, g := range gatewaysIn(t, dir) {
					if err := validate(t, binary, g.Name, built(t, g, settings)); err != nil {
						t.Errorf("gateway %s: %v", g.Name, err)
					}
				}
			})
		}
	}
}

// The test above would be worth nothing if Envoy accepted everything.
func TestEnvoyRefusesWhatItCannotRun(t *testing.T) {
	t.Parallel()
	binary := envoyBinary(t)
	const all, tls = "everything-that-a-gateway-says-reaches-envoy", "a-listener-identifies-itself-by-its-certificates"
	tests := map[string]struct {
		golden string
		spoil  func(*envoy.Resources)
		want   string
	}{
		"a route to nowhere": {
			all, func(r *envoy.Resources) { r.Clusters = nil }, "unknown cluster",
		},
		"an extension that does not exist": {
			all, func(r *envoy.Resources) {
				r.Listeners[0].FilterChains[0].Filters[0].GetTypedConfig().TypeUrl = "type.googleapis.com/google.protobuf.BytesValue"
			}, "google.protobuf.BytesValue",
		},
		"a private key that is none": {
			tls, func(r *envoy.Resources) {
				r.Secrets[0].GetTlsCertificate().PrivateKey = r.Secrets[0].GetTlsCertificate().GetCertificateChain()
			}, "private key",
		},
		"a header that may not be removed": {
			all, func(r *envoy.Resources) {
				r.Routes[0].VirtualHosts[0].Routes[0].RequestHeadersToRemove = []string{"host"}
			}, "may not be removed",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := "../../xds/envoy/testdata/" + tc.golden
			g := gatewaysIn(t, dir)[0]
			r := built(t, g, settingsIn(t, dir))
			tc.spoil(r)
			if err := validate(t, binary, g.Name, r); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Envoy says %v, want a refusal with %q", err, tc.want)
			}
		})
	}
}

// settingsIn reads the settings of a golden case; a sample has none.
func settingsIn(t *testing.T, dir string) envoy.Settings {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "options.yaml"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var options struct {
		Settings envoy.Settings `json:"settings"`
		Missing  []string       `json:"missing"`
	}
	if err := yaml.Unmarshal(content, &options); err != nil {
		t.Fatal(err)
	}
	options.Settings.Secrets = secretsBut(t, options.Missing)
	options.Settings.SystemRoots = options.Settings.Secrets(policy.SecretValue{Purpose: policy.ForAuthorities})
	return options.Settings
}

// secretsBut has something fit for every purpose, but for the Secrets that are missing.
func secretsBut(t *testing.T, missing []string) envoy.SecretSource {
	t.Helper()
	ca := testca.New(t, "anybody")
	pair := ca.Issue(t, "site.example")
	return func(v policy.SecretValue) []byte {
		switch {
		case slices.Contains(missing, v.Secret.Name):
			return nil
		case v.Purpose == policy.ForAuthorities:
			return []byte(ca.PEM)
		case v.Purpose == policy.ForCertificate && v.Key == policy.CertificateKey:
			return []byte(pair.Cert)
		case v.Purpose == policy.ForCertificate:
			return []byte(pair.Key)
		}
		return []byte("sk-provider")
	}
}

// gatewaysIn reads the gateways of a folder whose other files, if they are no manifests, are not looked at.
func gatewaysIn(t *testing.T, dir string) []*policy.Gateway {
	t.Helper()
	if golden := filepath.Join(dir, "gateway.yaml"); isGolden(dir) {
		dir = golden
	}
	var loader manifest.Loader
	found := loader.Load(dir)
	for _, p := range found.Problems {
		t.Error(p)
	}
	table, _ := policy.Compile(found.Input)
	if len(table.Gateways()) == 0 {
		t.Fatalf("%s has no gateway", dir)
	}
	return table.Gateways()
}

func isGolden(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "envoy.yaml"))
	return err == nil
}

func built(t *testing.T, g *policy.Gateway, s envoy.Settings) *envoy.Resources {
	t.Helper()
	r, err := envoy.Build(g, s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// validate lets Envoy read everything at once: the bootstrap, with the resources in it instead of the address of a server.
func validate(t *testing.T, binary string, name policy.Name, r *envoy.Resources) error {
	t.Helper()
	at := policy.Endpoint{Address: "127.0.0.1", Port: 8081}
	b := envoy.Bootstrap(name, "envoy-0", envoy.Servers{XDS: at, Service: at})
	b.DynamicResources = nil
	for _, l := range r.Listeners {
		inlineRoutes(t, l, r.Routes)
	}
	b.StaticResources.Listeners, b.StaticResources.Secrets = r.Listeners, r.Secrets
	b.StaticResources.Clusters = append(b.StaticResources.Clusters, r.Clusters...)
	text, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	decode(t, string(text), &tree)
	inlineSecrets(tree)
	file := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(file, []byte(jsonOf(tree)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "-c", file, "-l", "error").CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

// inlineSecrets lets references to secrets lead to those in the bootstrap.
func inlineSecrets(tree any) {
	switch v := tree.(type) {
	case map[string]any:
		delete(v, "sdsConfig")
		for _, part := range v {
			inlineSecrets(part)
		}
	case []any:
		for _, part := range v {
			inlineSecrets(part)
		}
	}
}

// inlineRoutes puts the routes into the listener, where Envoy checks them and the clusters that they name.
func inlineRoutes(t *testing.T, l *listenerv3.Listener, all []*routev3.RouteConfiguration) {
	t.Helper()
	for _, chain := range l.GetFilterChains() {
		config := chain.GetFilters()[0].GetTypedConfig()
		var manager hcmv3.HttpConnectionManager
		if config.UnmarshalTo(&manager) != nil {
			return // Envoy will say what is wrong with it.
		}
		for _, c := range all {
			if c.GetName() == manager.GetRds().GetRouteConfigName() {
				manager.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: c}
			}
		}
		if manager.GetRds() != nil {
			t.Fatalf("listener %s names routes that are not there", l.GetName())
		}
		if err := config.MarshalFrom(&manager); err != nil {
			t.Fatal(err)
		}
	}
}
