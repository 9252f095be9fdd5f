// Package server decides when a fleet of Envoys is told something new: when it is valid, and only then. It speaks delta xDS
// over one aggregated stream for each Envoy, and reports what each Envoy made of it.
package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	xdsv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

// A Server holds the last good configuration of each gateway and serves it to the Envoys whose node.cluster is the
// gateway's "namespace/name". It is safe for concurrent use.
type Server struct {
	cache  cachev3.SnapshotCache
	report func(Report)

	mu    sync.Mutex
	nodes map[int64]*corev3.Node // by stream: Envoy says who it is in its first message only
}

// A Report is what one Envoy made of a response.
type Report struct {
	Gateway string // namespace/name, as Envoy's node.cluster says
	Node    string
	Kind    string // short name of the type, as in Listener
	Err     string // Envoy's words if it rejected the response; empty if it accepted it
}

// New makes a Server that calls report, if not nil, for every answer of an Envoy, from many goroutines.
func New(report func(Report)) *Server {
	if report == nil {
		report = func(Report) {}
	}
	return &Server{cache: cachev3.NewSnapshotCache(true, fleet{}, nil), report: report, nodes: map[int64]*corev3.Node{}}
}

// fleet gives all Envoys of a gateway the same configuration.
type fleet struct{}

// ID implements cachev3.NodeHash.
func (fleet) ID(n *corev3.Node) string { return n.GetCluster() }

// Register adds the discovery service to a gRPC server. Its streams end with ctx.
func (s *Server) Register(ctx context.Context, g *grpc.Server) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, xdsv3.NewServer(ctx, s.cache, s.callbacks()))
}

// Publish makes r the configuration of the gateway's Envoys. If r contradicts itself nothing changes: they keep what they
// have. Publishing what is published already tells nobody.
func (s *Server) Publish(ctx context.Context, gateway policy.Name, r *envoy.Resources) error {
	if err := checkClusters(r); err != nil {
		return fmt.Errorf("publishing gateway %s: %w", gateway, err)
	}
	content := map[resourcev3.Type][]types.Resource{
		resourcev3.ListenerType: resources(r.Listeners),
		resourcev3.RouteType:    resources(r.Routes),
		resourcev3.ClusterType:  resources(r.Clusters),
		resourcev3.SecretType:   resources(r.Secrets),
	}
	version, err := versionOf(content)
	if err != nil {
		return fmt.Errorf("publishing gateway %s: %w", gateway, err)
	}
	if held, err := s.cache.GetSnapshot(gateway.String()); err == nil && held.GetVersion(resourcev3.ListenerType) == version {
		return nil
	}
	snapshot, err := cachev3.NewSnapshot(version, content)
	if err != nil {
		return fmt.Errorf("publishing gateway %s: %w", gateway, err)
	}
	if err := snapshot.Consistent(); err != nil {
		return fmt.Errorf("publishing gateway %s: %w", gateway, err)
	}
	if err := s.cache.SetSnapshot(ctx, gateway.String(), snapshot); err != nil {
		return fmt.Errorf("publishing gateway %s: %w", gateway, err)
	}
	return nil
}

// Withdraw takes a gateway's listeners away from its Envoys.
func (s *Server) Withdraw(ctx context.Context, gateway policy.Name) error {
	return s.Publish(ctx, gateway, &envoy.Resources{})
}

// checkClusters finds a route to nowhere: Envoy would accept it, and answer 503.
func checkClusters(r *envoy.Resources) error {
	known := map[string]bool{}
	for _, c := range r.Clusters {
		known[c.GetName()] = true
	}
	for _, config := range r.Routes {
		for _, host := range config.GetVirtualHosts() {
			for _, route := range host.GetRoutes() {
				if name := route.GetRoute().GetCluster(); route.GetRoute() != nil && !known[name] {
					return fmt.Errorf("route %s of %s forwards to cluster %q, which is not there", route.GetName(), config.GetName(), name)
				}
			}
		}
	}
	return nil
}

func resources[T proto.Message](in []T) []types.Resource {
	out := make([]types.Resource, len(in))
	for i, m := range in {
		out[i] = m
	}
	return out
}

// versionOf is a hash of the content, so that two replicas call equal content by the same name.
func versionOf(content map[resourcev3.Type][]types.Resource) (string, error) {
	h := sha256.New()
	for _, t := range []resourcev3.Type{resourcev3.ClusterType, resourcev3.ListenerType, resourcev3.RouteType, resourcev3.SecretType} {
		for _, m := range content[t] {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
			if err != nil {
				return "", fmt.Errorf("writing %s: %w", t, err)
			}
			fmt.Fprintf(h, "%s %d ", t, len(b))
			h.Write(b)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func (s *Server) callbacks() xdsv3.Callbacks {
	return xdsv3.CallbackFuncs{
		StreamOpenFunc: func(context.Context, int64, string) error {
			return status.Error(codes.Unimplemented, "state-of-the-world xDS is not served; set api_type: DELTA_GRPC")
		},
		DeltaStreamOpenFunc: func(ctx context.Context, _ int64, _ string) error { return checkPeer(ctx) },
		DeltaStreamClosedFunc: func(stream int64, _ *corev3.Node) {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.nodes, stream)
		},
		StreamDeltaRequestFunc: func(stream int64, req *discoveryv3.DeltaDiscoveryRequest) error {
			node := s.node(stream, req)
			if req.GetResponseNonce() != "" {
				s.report(Report{
					Gateway: node.GetCluster(), Node: node.GetId(),
					Kind: kinds[req.GetTypeUrl()], Err: rejection(req),
				})
			}
			return nil
		},
	}
}

// checkPeer refuses who must not be told Secrets: whoever is neither on this machine nor proves by a certificate who it is.
// Which gateway a client belongs to is what it says itself: who gets this far is trusted with all of them.
func checkPeer(ctx context.Context) error {
	p, known := peer.FromContext(ctx)
	if !known {
		return status.Error(codes.PermissionDenied, "nobody knows where this stream comes from")
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.VerifiedChains) > 0 {
		return nil
	}
	if at, err := netip.ParseAddrPort(p.Addr.String()); err == nil && at.Addr().Unmap().IsLoopback() || p.Addr.Network() == "unix" {
		return nil
	}
	return status.Error(codes.PermissionDenied, "configuration holds Secrets: it is served on loopback, or to clients with a certificate that was verified")
}

func rejection(req *discoveryv3.DeltaDiscoveryRequest) string {
	if req.GetErrorDetail() != nil && req.GetErrorDetail().GetMessage() == "" {
		return "rejected without a word" // An empty text would mean that it was accepted.
	}
	return req.GetErrorDetail().GetMessage()
}

func (s *Server) node(stream int64, req *discoveryv3.DeltaDiscoveryRequest) *corev3.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := req.GetNode(); n != nil {
		s.nodes[stream] = n
	}
	return s.nodes[stream]
}

var kinds = map[string]string{
	resourcev3.ListenerType: "Listener",
	resourcev3.RouteType:    "RouteConfiguration",
	resourcev3.ClusterType:  "Cluster",
	resourcev3.SecretType:   "Secret",
}
