package envoy_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

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
	tests := map[string]struct {
		spoil func(*envoy.Resources)
		want  string
	}{
		"a route to nowhere": {
			func(r *envoy.Resources) { r.Clusters = nil }, "unknown cluster",
		},
		"an extension that does not exist": {
			func(r *envoy.Resources) {
				r.Listeners[0].FilterChains[0].Filters[0].GetTypedConfig().TypeUrl += "X"
			}, "HttpConnectionManagerX",
		},
		"a header that may not be removed": {
			func(r *envoy.Resources) {
				r.Routes[0].VirtualHosts[0].Routes[0].RequestHeadersToRemove = []string{"host"}
			}, "may not be removed",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gatewaysIn(t, "../../xds/envoy/testdata/everything-that-a-gateway-says-reaches-envoy")[0]
			r := built(t, g, envoy.Settings{})
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
	}
	if err := yaml.Unmarshal(content, &options); err != nil {
		t.Fatal(err)
	}
	return options.Settings
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
	b := envoy.Bootstrap(name, "envoy-0", at, at)
	b.DynamicResources = nil
	for _, l := range r.Listeners {
		inlineRoutes(t, l, r.Routes)
	}
	b.StaticResources.Listeners = r.Listeners
	b.StaticResources.Clusters = append(b.StaticResources.Clusters, r.Clusters...)
	content, err := proto.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.pb")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "-c", file, "-l", "error").CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

// inlineRoutes puts the routes into the listener, where Envoy checks them and the clusters that they name.
func inlineRoutes(t *testing.T, l *listenerv3.Listener, all []*routev3.RouteConfiguration) {
	t.Helper()
	config := l.GetFilterChains()[0].GetFilters()[0].GetTypedConfig()
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
