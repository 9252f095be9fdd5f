package envoy_test

import (
	"context"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/tierkeeper/tierkeeper/internal/testca"
	"github.com/tierkeeper/tierkeeper/mtls"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/test/program"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

func filesIn(m *testca.Mount) mtls.Files { return mtls.Files{Cert: m.Cert(), Key: m.Key(), CA: m.CA()} }

// bootstrapped lets the program write what an Envoy starts from, and returns the bootstrap.
func bootstrapped(t *testing.T, gateway policy.Name, xds, service policy.Endpoint, files mtls.Files) string {
	t.Helper()
	dir := t.TempDir()
	hostPort := func(e policy.Endpoint) string { return net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port))) }
	p := program.Start(t, exec.Command(binary, "bootstrap", "--gateway", gateway.String(), "--node", "envoy-0", "--dir", dir,
		"--xds", hostPort(xds), "--xds-server-name", "xds.tierkeeper", "--service", hostPort(service), "--service-server-name", "limits.tierkeeper",
		"--cert", files.Cert, "--key", files.Key, "--ca", files.CA))
	if err := p.Result(t); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "envoy.yaml")
}

func believing(t *testing.T, m *testca.Mount) credentials.TransportCredentials {
	t.Helper()
	creds, err := filesIn(m).ServerCredentials(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

// callers remembers by which certificate the last stream came.
type callers struct{ last atomic.Value }

func (c *callers) watch(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c.last.Store(caller(stream.Context()))
	return handler(srv, stream)
}

// tellCaller tells by which certificate the first call came.
func tellCaller(first chan<- string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		select {
		case first <- caller(ctx):
		default:
		}
		return handler(ctx, req)
	}
}

// caller is the number of the certificate by which a call came.
func caller(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			return info.State.PeerCertificates[0].SerialNumber.String()
		}
	}
	return "none"
}

func TestAnEnvoyFromABootstrapProvesWhoItIsByCertificatesThatAreRenewed(t *testing.T) {
	t.Parallel()
	binary := envoyBinary(t)
	before, after := testca.New(t, "before"), testca.New(t, "after")
	first, next := before.Issue(t, "envoy"), after.Issue(t, "envoy")
	servers, own := testca.NewMount(t, before.PEM, before.Issue(t, "xds.tierkeeper")), testca.NewMount(t, before.PEM, first)
	creds := believing(t, servers)
	var seen callers
	s, at := serveXDS(t, grpc.Creds(creds), grpc.StreamInterceptor(seen.watch),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 3 * time.Second, MaxConnectionAgeGrace: time.Second}))

	asked := make(chan string, 1)
	limits := serveGRPC(t, func(g *grpc.Server) { healthv1.RegisterHealthServer(g, health.NewServer()) },
		grpc.Creds(believing(t, testca.NewMount(t, before.PEM, before.Issue(t, "limits.tierkeeper")))), grpc.UnaryInterceptor(tellCaller(asked)))

	known, impostor := policy.Name{Namespace: "edge", Name: "known"}, policy.Name{Namespace: "edge", Name: "impostor"}
	for _, name := range []policy.Name{known, impostor} {
		publishSecured(t, s, name, 1)
	}
	file := bootstrapped(t, known, at, limits, filesIn(own))
	if out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "-c", file, "-l", "error").CombinedOutput(); err != nil {
		t.Errorf("Envoy refuses the bootstrap: %v\n%s", err, out)
	}
	strangers := testca.NewMount(t, before.PEM, testca.New(t, "before").Issue(t, "envoy"))
	runEnvoyFrom(t, bootstrapped(t, impostor, at, limits, filesIn(strangers)))
	runEnvoyFrom(t, file)
	awaitEnvoys(t, s, known, []server.Envoy{{Node: "envoy-0", Mark: 1}})
	select {
	case got := <-asked:
		if want := first.TLS(t).Leaf.SerialNumber.String(); got != want {
			t.Errorf("the rate-limit service is asked by certificate %s, want %s", got, want)
		}
	case <-time.After(startMost):
		t.Error("the rate-limit service is not asked whether it is healthy")
	}

	own.Rotate(t, after.PEM, next)
	servers.Rotate(t, after.PEM, after.Issue(t, "xds.tierkeeper"))
	publishSecured(t, s, known, 2)
	eventually(t, startMost, "the Envoy comes by its new certificate", func() bool { return seen.last.Load() == next.TLS(t).Leaf.SerialNumber.String() })
	awaitEnvoys(t, s, known, []server.Envoy{{Node: "envoy-0", Mark: 2}})
	if all := s.Envoys(impostor); len(all) > 0 {
		t.Errorf("a certificate of somebody else's authority is believed: %+v", all)
	}
}

func publishSecured(t *testing.T, s *server.Server, name policy.Name, mark uint64) {
	t.Helper()
	source := secretsBut(t, nil)
	r, err := envoy.Build(securedGateway(t, name), envoy.Settings{
		BindAddress: "127.0.0.1", Secrets: source, SystemRoots: source(policy.SecretValue{Purpose: policy.ForAuthorities}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), name, r, mark); err != nil {
		t.Fatal(err)
	}
}
