package server_test

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

const (
	listeners = resourcev3.ListenerType
	routes    = resourcev3.RouteType
	clusters  = resourcev3.ClusterType
	secrets   = resourcev3.SecretType

	enough = 30 * time.Second // for an answer on loopback, however busy the machine
)

// A control is a Server behind real gRPC, and what it tells.
type control struct {
	*server.Server
	conn    *grpc.ClientConn
	reports chan server.Report
	changed chan policy.Name
}

func start(t *testing.T) *control {
	t.Helper()
	return startOn(t, listen(t, "tcp", "127.0.0.1:0"), insecure.NewCredentials(), insecure.NewCredentials())
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// startRetrying starts a Server that sends what is rejected again at once.
func startRetrying(t *testing.T) *control {
	t.Helper()
	return startOn(t, listen(t, "tcp", "127.0.0.1:0"), insecure.NewCredentials(), insecure.NewCredentials(), func(s *server.Server) {
		s.RetryAfter(time.Millisecond)
	})
}

func startOn(t *testing.T, l net.Listener, of, with credentials.TransportCredentials, prepare ...func(*server.Server)) *control {
	t.Helper()
	c := &control{reports: make(chan server.Report, 10_000), changed: make(chan policy.Name, 10_000)}
	c.Server = server.New(func(r server.Report) { c.reports <- r }, func(gateway policy.Name) { c.changed <- gateway })
	for _, do := range prepare {
		do(c.Server)
	}
	g := grpc.NewServer(grpc.Creds(of))
	c.Register(t.Context(), g)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	target := l.Addr().String()
	if l.Addr().Network() == "unix" {
		target = "unix:" + target
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(with))
	if err != nil {
		t.Fatal(err)
	}
	c.conn = conn
	t.Cleanup(func() { _ = conn.Close() })
	return c
}

// report is the next thing reported.
func (c *control) report(t *testing.T) server.Report {
	t.Helper()
	select {
	case r := <-c.reports:
		return r
	case <-time.After(enough):
		t.Fatal("nothing was reported")
		return server.Report{}
	}
}

// An envoyClient speaks delta xDS as Envoy does: it says who it is in its first message only.
type envoyClient struct {
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	node   *corev3.Node
}

func (c *control) connect(t *testing.T, cluster string) *envoyClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	t.Cleanup(cancel)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &envoyClient{stream: stream, node: &corev3.Node{Id: "envoy-of-" + cluster, Cluster: cluster}}
}

func (e *envoyClient) send(t *testing.T, req *discoveryv3.DeltaDiscoveryRequest) {
	t.Helper()
	req.Node, e.node = e.node, nil
	if err := e.stream.Send(req); err != nil {
		t.Fatal(err)
	}
}

// subscribe asks for all resources of a type, or for those of the names.
func (e *envoyClient) subscribe(t *testing.T, kind string, names ...string) {
	t.Helper()
	e.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: kind, ResourceNamesSubscribe: names})
}

func (e *envoyClient) accept(t *testing.T, r *discoveryv3.DeltaDiscoveryResponse) {
	t.Helper()
	e.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()})
}

func (e *envoyClient) reject(t *testing.T, r *discoveryv3.DeltaDiscoveryResponse, why string) {
	t.Helper()
	e.send(t, &discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce(),
		ErrorDetail: refusal(why),
	})
}

func refusal(why string) *statusv1.Status { return status.New(codes.Internal, why).Proto() }

func (e *envoyClient) receive(t *testing.T) *discoveryv3.DeltaDiscoveryResponse {
	t.Helper()
	r, err := e.stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// An update is a response, without what differs between runs.
type update struct {
	Kind             string
	Changed, Removed []string
}

func updateOf(r *discoveryv3.DeltaDiscoveryResponse) update {
	u := update{Kind: r.GetTypeUrl(), Removed: r.GetRemovedResources()}
	for _, resource := range r.GetResources() {
		u.Changed = append(u.Changed, resource.GetName())
	}
	slices.Sort(u.Changed)
	slices.Sort(u.Removed)
	return u
}

// next accepts the next response and says what was in it.
func (e *envoyClient) next(t *testing.T) update {
	t.Helper()
	r := e.receive(t)
	e.accept(t, r)
	return updateOf(r)
}

// begin subscribes as Envoy does when it starts, and accepts what it gets.
func (e *envoyClient) begin(t *testing.T, routeNames ...string) []update {
	t.Helper()
	var all []update
	e.subscribe(t, clusters)
	all = append(all, e.next(t))
	e.subscribe(t, listeners)
	all = append(all, e.next(t))
	e.subscribe(t, routes, routeNames...)
	return append(all, e.next(t))
}

// pending returns what the server has sent up to now and the client has not read. It asks for a type that no test uses, and
// reads until the answer comes: a stream keeps its order.
func (e *envoyClient) pending(t *testing.T) []update {
	t.Helper()
	e.subscribe(t, resourcev3.RuntimeType, "*")
	var all []update
	for {
		r := e.receive(t)
		if r.GetTypeUrl() == resourcev3.RuntimeType {
			e.send(t, &discoveryv3.DeltaDiscoveryRequest{
				TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce(), ResourceNamesUnsubscribe: []string{"*"},
			})
			return all
		}
		all = append(all, updateOf(r))
	}
}

// pathIn is the path of the first route in a response.
func pathIn(t *testing.T, r *discoveryv3.DeltaDiscoveryResponse) string {
	t.Helper()
	var config routev3.RouteConfiguration
	if err := r.GetResources()[0].GetResource().UnmarshalTo(&config); err != nil {
		t.Fatal(err)
	}
	return config.GetVirtualHosts()[0].GetRoutes()[0].GetMatch().GetPath()
}
