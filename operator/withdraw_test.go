package operator

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

const enough = 30 * time.Second // for an answer on loopback, however busy the machine

var edge = policy.Name{Namespace: "edge", Name: "main"}

// served is a publisher that Envoys can connect to.
func served(t *testing.T) (*publisher, *grpc.ClientConn) {
	t.Helper()
	p := newPublisher(envoy.Settings{}, slog.New(slog.DiscardHandler))
	return p, dial(t, p)
}

// dial lets a publisher serve, and connects to it.
func dial(t *testing.T, p *publisher) *grpc.ClientConn {
	t.Helper()
	g := grpc.NewServer()
	p.xds.Register(t.Context(), g)
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); g.Stop() })
	return conn
}

// listening is an Envoy of the gateway that has a listener from before.
type listening struct {
	discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
}

func listen(t *testing.T, conn *grpc.ClientConn) listening {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	t.Cleanup(cancel)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: "envoy-0", Cluster: edge.String()}, TypeUrl: resourcev3.ListenerType,
		InitialResourceVersions: map[string]string{"from-before": "1"},
	}); err != nil {
		t.Fatal(err)
	}
	return listening{stream}
}

// next is what it is told to listen to, and to listen to no more.
func (l listening) next(t *testing.T) (changed, removed []string) {
	t.Helper()
	r, err := l.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, resource := range r.GetResources() {
		changed = append(changed, resource.GetName())
	}
	if err := l.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}); err != nil {
		t.Fatal(err)
	}
	return changed, r.GetRemovedResources()
}

// publication has the gateway served, whose backend needs a Secret.
func publication(mark uint64) controllers.Publication {
	g := v1alpha1.QuotaGateway{ObjectMeta: metav1.ObjectMeta{Namespace: edge.Namespace, Name: edge.Name}}
	g.Spec.Listeners = []v1alpha1.Listener{{Name: "http", Port: 8080, Protocol: v1alpha1.ListenerProtocolHTTP}}
	g.Spec.Identity.Sources = []v1alpha1.KeySource{{Header: "x-api-key"}}
	g.Spec.Backends = []v1alpha1.Backend{{
		Name: "provider", Endpoints: []v1alpha1.Endpoint{{Address: "127.0.0.1", Port: 9}},
		Credential: &v1alpha1.BackendCredential{Header: "x-api-key", SecretKeyRef: v1alpha1.SecretKeyRef{Name: "provider", Key: "token"}},
	}}
	table, _ := policy.Compile(policy.Input{Gateways: []*v1alpha1.QuotaGateway{&g}})
	return controllers.Publication{Table: table, Gateways: []policy.Name{edge}, Mark: mark, Content: controllers.Content{
		Unread: func(policy.Name) bool { return false }, Usable: func(policy.SecretValue) bool { return false }, Value: func(policy.SecretValue) []byte { return nil },
	}}
}

// without is a publication whose Table lacks the gateway.
func without(mark uint64, there ...policy.Name) controllers.Publication {
	n := publication(mark)
	n.Table, _ = policy.Compile(policy.Input{})
	n.Gateways = there
	return n
}

func publish(t *testing.T, p *publisher, n controllers.Publication) {
	t.Helper()
	if err := p.Publish(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

// TestAGatewayThatIsGoneIsServedNoMore, whether it was deleted now or while no operator was there to hear of it.
func TestAGatewayThatIsGoneIsServedNoMore(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string]func(t *testing.T, p *publisher, conn *grpc.ClientConn) listening{
		"it is deleted": func(t *testing.T, p *publisher, conn *grpc.ClientConn) listening {
			t.Helper()
			publish(t, p, publication(1))
			e := listen(t, conn)
			if changed, removed := e.next(t); len(changed) != 1 || len(removed) != 1 {
				t.Fatalf("told are %q and not %q, want its listener and not the one from before", changed, removed)
			}
			publish(t, p, without(2))
			return e
		},
		"an Envoy of it comes after the start": func(t *testing.T, p *publisher, conn *grpc.ClientConn) listening {
			t.Helper()
			publish(t, p, without(1))
			return listen(t, conn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, conn := served(t)
			e := steps(t, p, conn)
			if changed, removed := e.next(t); len(changed) != 0 || len(removed) != 1 {
				t.Errorf("told are %q and not %q, want one listener no more", changed, removed)
			}
			publish(t, p, publication(3)) // It is made again.
			if changed, _ := e.next(t); len(changed) != 1 {
				t.Errorf("told are %q, want its listener", changed)
			}
		})
	}
}

// TestWhoConnectsAsNoGatewayIsNotToldOf, or names that somebody makes up could crowd out what is said of gateways.
func TestWhoConnectsAsNoGatewayIsNotToldOf(t *testing.T) {
	t.Parallel()
	for _, there := range []bool{true, false} {
		p, conn := served(t)
		publish(t, p, publication(1))
		if !there {
			publish(t, p, without(2))
		}
		listen(t, conn).next(t)
		if _, told := p.Acknowledged().Gateways[edge]; told != there {
			t.Errorf("Envoys are told of: %t, want %t", told, there)
		}
	}
}

// TestAGatewayThatWasNeverAcceptedKeepsItsEnvoys: an operator that has just started may know less than they do.
func TestAGatewayThatWasNeverAcceptedKeepsItsEnvoys(t *testing.T) {
	t.Parallel()
	p, conn := served(t)
	publish(t, p, without(1, edge))
	e := listen(t, conn)
	publish(t, p, publication(2))
	if changed, removed := e.next(t); len(changed) != 1 || !cmp.Equal(removed, []string{"from-before"}) {
		t.Errorf("told first are %q and not %q, want what is published and nothing before", changed, removed)
	}
	publish(t, p, without(3, edge))
	publish(t, p, without(4))
	if changed, removed := e.next(t); len(changed) != 0 || len(removed) != 1 {
		t.Errorf("told next are %q and not %q, want that it is gone and nothing before", changed, removed)
	}
}

// TestAnUnreadSecretIsSaidAndChangesNothing at the Envoys of the gateway.
func TestAnUnreadSecretIsSaidAndChangesNothing(t *testing.T) {
	t.Parallel()
	p, conn := served(t)
	told := 0
	p.OnAcknowledged(func() { told++ })
	n := publication(1)
	n.Content.Unread = func(policy.Name) bool { return true }
	publish(t, p, n)
	if got := p.Acknowledged().Gateways[edge].Untold; !strings.Contains(got, "could not be read yet") || told == 0 {
		t.Errorf("it is said to be %q, told %d times", got, told)
	}
	if resources := p.xds.Gateways(); len(resources) != 0 {
		t.Errorf("served are %v", resources)
	}
	p.OnAcknowledged(func() {})
	publish(t, p, publication(2))
	if changed, _ := listen(t, conn).next(t); len(changed) != 1 {
		t.Errorf("once it is read %q is told, want a listener", changed)
	}
	if got := p.Acknowledged().Gateways[edge]; got.Untold != "" || got.Connected != 1 {
		t.Errorf("once it is read they are %+v, want one Envoy", got)
	}
}

// TestAGatewayThatIsGoneIsWithdrawnOnce, and nothing is kept of it when nobody is connected.
func TestAGatewayThatIsGoneIsWithdrawnOnce(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	p := newPublisher(envoy.Settings{}, slog.New(slog.NewTextHandler(&log, nil)))
	publish(t, p, publication(1))
	for mark := uint64(2); mark < 5; mark++ {
		publish(t, p, without(mark))
	}
	if n := strings.Count(log.String(), "QuotaGateway that is not there"); n != 1 || len(p.served) != 0 {
		t.Errorf("it was withdrawn %d times, and %d gateways are kept:\n%s", n, len(p.served), &log)
	}
}
