package envoy_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/test/program"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

// serveXDS serves configuration, without anything else of the product around it.
func serveXDS(t *testing.T, options ...grpc.ServerOption) (*server.Server, policy.Endpoint) {
	t.Helper()
	s := server.New(nil, nil)
	return s, serveGRPC(t, func(g *grpc.Server) { s.Register(t.Context(), g) }, options...)
}

// serveGRPC serves on loopback until the test ends.
func serveGRPC(t *testing.T, register func(*grpc.Server), options ...grpc.ServerOption) policy.Endpoint {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at, err := envoy.SplitAddress(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// Envoy pings every 2 seconds; by default gRPC would hang up.
	g := grpc.NewServer(append(options, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))...)
	register(g)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return at
}

// runEnvoy runs an Envoy of its own until the test ends.
func runEnvoy(t *testing.T, b *bootstrapv3.Bootstrap) {
	t.Helper()
	text, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	runEnvoyFrom(t, file)
}

func runEnvoyFrom(t *testing.T, file string) {
	t.Helper()
	binary, err := filepath.Abs(envoyBinary(t))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", file, "--disable-hot-restart", "-l", "warning", "--concurrency", "1")
	cmd.Dir = t.TempDir()
	p := program.Start(t, cmd)
	t.Cleanup(func() { _ = p.Stop() })
}

// nowhere is a rate-limit service that does not answer: Envoy takes its configuration all the same.
var nowhere = policy.Endpoint{Address: "127.0.0.1", Port: 1}

func awaitEnvoys(t *testing.T, s *server.Server, gateway policy.Name, want []server.Envoy) {
	t.Helper()
	var diff string
	defer func() {
		if diff != "" {
			t.Logf("Envoys of %s (-want +got):\n%s", gateway, diff)
		}
	}()
	eventually(t, startMost, "the server says what the Envoys have", func() bool {
		diff = cmp.Diff(want, s.Envoys(gateway))
		return diff == ""
	})
}

// TestTheServerKnowsWhatTheRealEnvoyHas publishes a gateway that has all kinds of resources, with secrets of every purpose.
func TestTheServerKnowsWhatTheRealEnvoyHas(t *testing.T) {
	t.Parallel()
	envoyBinary(t)
	s, at := serveXDS(t)
	gateways := map[policy.Name]*policy.Gateway{}
	publish := func(name policy.Name, bind string, mark uint64) {
		t.Helper()
		r, err := envoy.Build(gateways[name], envoy.Settings{
			BindAddress: bind, Secrets: secretsBut(t, nil), SystemRoots: secretsBut(t, nil)(policy.SecretValue{Purpose: policy.ForAuthorities}),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Publish(t.Context(), name, r, mark); err != nil {
			t.Fatal(err)
		}
	}
	broken, sound := policy.Name{Namespace: "edge", Name: "broken"}, policy.Name{Namespace: "edge", Name: "sound"}
	for _, name := range []policy.Name{broken, sound} {
		gateways[name] = securedGateway(t, name)
		publish(name, "127.0.0.1", 1)
		runEnvoy(t, envoy.Bootstrap(name, "envoy-0", envoy.Servers{XDS: at, Service: nowhere}))
	}
	for name := range gateways {
		awaitEnvoys(t, s, name, []server.Envoy{{Node: "envoy-0", Mark: 1}})
	}

	// The kernel refuses an address that this machine does not have (RFC 5737 keeps it for documents).
	publish(broken, "192.0.2.1", 2)
	publish(sound, "127.0.0.1", 2)
	eventually(t, startMost, "the Envoy rejects its listener", func() bool {
		all := s.Envoys(broken)
		return len(all) == 1 && all[0].Mark == 1 && strings.HasPrefix(all[0].Rejected, "Listener: edge/broken/https: cannot bind '192.0.2.1:")
	})
	awaitEnvoys(t, s, sound, []server.Envoy{{Node: "envoy-0", Mark: 2}})

	publish(broken, "127.0.0.1", 3)
	awaitEnvoys(t, s, broken, []server.Envoy{{Node: "envoy-0", Mark: 3}})
}

// securedGateway has a listener with a certificate, and a backend over TLS with a key at it.
func securedGateway(t *testing.T, name policy.Name) *policy.Gateway {
	t.Helper()
	secret := func(n string) policy.Name { return policy.Name{Namespace: name.Namespace, Name: n} }
	return &policy.Gateway{
		Name:      name,
		Listeners: []policy.Listener{{Name: "https", Port: uint32(reservePort(t)), Certificates: []policy.Name{secret("site")}}}, //nolint:gosec // A port.
		Backends: []policy.Backend{{
			Name: "a", Endpoints: []policy.Endpoint{{Address: "127.0.0.1", Port: 1}}, ConnectTimeout: time.Second, IdleTimeout: time.Minute,
			TLS:        &policy.BackendTLS{ServerName: "api.example.com"},
			Credential: &policy.BackendCredential{Header: "authorization", Secret: policy.SecretValue{Secret: secret("provider"), Key: "token"}},
		}},
		Routes:  []policy.Route{{Name: "r", Path: "/", Backend: "a", Resource: "chat"}},
		Sources: []policy.KeySource{{Header: "x-api-key"}}, MaxBodyBytes: 1024,
	}
}
