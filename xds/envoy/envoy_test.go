package envoy_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

func TestAPortIsForOneListener(t *testing.T) {
	t.Parallel()
	g := full()
	g.Listeners = append(g.Listeners, policy.Listener{Name: "other", Port: 8081})
	_, err := envoy.Build(g, envoy.Settings{Port: 9000})
	if err == nil || !strings.Contains(err.Error(), "edge/main has 2 listeners") {
		t.Errorf("Build with a port for two listeners: %v, want an error that names the gateway and counts its listeners", err)
	}
}

func TestWhatEnvoyWouldRefuseIsAnError(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		settings envoy.Settings
		want     string
	}{
		"an upstream without an address":  {envoy.Settings{Upstream: &policy.Endpoint{Port: 80}}, "Address"},
		"a port that TCP does not have":   {envoy.Settings{Port: 65536}, "PortValue"},
		"an upstream beyond what TCP has": {envoy.Settings{Upstream: &policy.Endpoint{Address: "h", Port: 65536}}, "PortValue"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := envoy.Build(full(), tc.settings)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "edge/main") {
				t.Errorf("Build: %v, want an error about %s of gateway edge/main", err, tc.want)
			}
			if r != nil {
				t.Error("Build gives resources beside an error")
			}
		})
	}
}

func TestBuildLeavesTheGatewayAlone(t *testing.T) {
	t.Parallel()
	g := full()
	at := policy.Endpoint{Address: "127.0.0.1", Port: 9}
	if _, err := envoy.Build(g, envoy.Settings{Port: 9000, Upstream: &at}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full(), g, cmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
		t.Errorf("Build changed the gateway (-before +after):\n%s", diff)
	}
}

func TestSplitAddress(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in   string
		want policy.Endpoint
		err  string
	}{
		"an address of IPv4":  {in: "127.0.0.1:80", want: policy.Endpoint{Address: "127.0.0.1", Port: 80}},
		"an address of IPv6":  {in: "[::1]:65535", want: policy.Endpoint{Address: "::1", Port: 65535}},
		"a name":              {in: "localhost:1", want: policy.Endpoint{Address: "localhost", Port: 1}},
		"no port":             {in: "localhost", err: "missing port"},
		"a port too high":     {in: "localhost:65536", err: "out of range"},
		"a port with a name":  {in: "localhost:http", err: "invalid syntax"},
		"IPv6 without braces": {in: "::1:80", err: "too many colons"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := envoy.SplitAddress(tc.in)
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("SplitAddress(%q): error %v, want one with %q", tc.in, err, tc.err)
			}
			if got != tc.want {
				t.Errorf("SplitAddress(%q) = %v, want %v", tc.in, got, tc.want)
			}
		})
	}
}

// An Envoy asks only for secrets that something refers to, and would never have all of the others.
func TestASecretThatNothingRefersToIsNotTold(t *testing.T) {
	t.Parallel()
	g := full()
	g.Backends = []policy.Backend{{
		Name: "chat", ConnectTimeout: time.Second, Endpoints: []policy.Endpoint{{Address: "10.0.0.7", Port: 443}}, TLS: &policy.BackendTLS{ServerName: "api.example.com"},
		Credential: &policy.BackendCredential{Header: "authorization", Secret: policy.SecretValue{Key: "missing"}},
	}}
	r, err := envoy.Build(g, envoy.Settings{SystemRoots: []byte("roots")})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Secrets {
		t.Errorf("%s is told, and nothing refers to it", s.GetName())
	}
	g.Backends[0].Credential = nil
	if r, err = envoy.Build(g, envoy.Settings{SystemRoots: []byte("roots")}); err != nil || len(r.Secrets) != 1 {
		t.Errorf("without the credential: %d secrets and %v, want the authorities", len(r.Secrets), err)
	}
}
