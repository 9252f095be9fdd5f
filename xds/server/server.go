// Package server decides when a fleet of Envoys is told something new: when it is valid, and only then. It speaks delta xDS
// over one aggregated stream for each Envoy, and knows what each Envoy has in force and what it rejects.
package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	xdsv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tierkeeper/tierkeeper/mtls"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

// A Server holds the last good configuration of each gateway and serves it to the Envoys whose node.cluster is the
// gateway's "namespace/name". It is safe for concurrent use.
type Server struct {
	cache   cachev3.SnapshotCache
	report  func(Report)
	changed func(policy.Name)

	retryAfter time.Duration

	publishing sync.Mutex // so that what is published last is what the cache serves, and nothing is published that is being forgotten

	mu        sync.Mutex
	published map[string]publication // by node.cluster
	streams   map[int64]*stream
	awaited   []string // withdrawn gateways whose Envoys are away, by node.cluster; the longest first
}

// A publication is what a gateway's Envoys are to have in force. What was never published has no versions.
type publication struct {
	version  string                       // of the whole
	versions map[string]map[string]string // by type, then by name
	mark     uint64

	withdrawn bool // there is nothing to have, and no gateway
}

// A Report is what one Envoy made of a response.
type Report struct {
	Gateway string // namespace/name, as Envoy's node.cluster says
	Node    string
	Kind    string // short name of the type, as in Listener
	Err     string // Envoy's words if it rejected the response, at most 1 KiB and never of a Secret; empty if it accepted it
}

// New makes a Server. It calls report for every answer of an Envoy, and changed whenever Envoys may return something else
// for a gateway, with the zero Name if node.cluster is no "namespace/name". Either may be nil. Both are called from many
// goroutines, may call the Server, and hold up an Envoy's stream, or Publish, while they run.
func New(report func(Report), changed func(gateway policy.Name)) *Server {
	if report == nil {
		report = func(Report) {}
	}
	if changed == nil {
		changed = func(policy.Name) {}
	}
	return &Server{
		cache: cachev3.NewSnapshotCache(true, fleet{}, nil), report: report, changed: changed, retryAfter: retryAfter,
		published: map[string]publication{}, streams: map[int64]*stream{},
	}
}

// fleet gives all Envoys of a gateway the same configuration.
type fleet struct{}

// ID implements cachev3.NodeHash.
func (fleet) ID(n *corev3.Node) string { return n.GetCluster() }

// Register adds the discovery service to a gRPC server. Its streams end with ctx.
func (s *Server) Register(ctx context.Context, g *grpc.Server) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, xdsv3.NewServer(ctx, resending{s.cache, s.rejects, s.retryAfter}, s.callbacks()))
}

// Publish makes r the configuration of the gateway's Envoys. If r contradicts itself nothing changes: they keep what they
// have. Publishing what is published already tells nobody. The mark is a number of the caller's that grows from call to
// call; Envoy.Mark says how far an Envoy has come. Equal content with a larger mark raises that of the Envoys that have it.
func (s *Server) Publish(ctx context.Context, gateway policy.Name, r *envoy.Resources, mark uint64) error {
	return s.tellAll(ctx, gateway, r, publication{mark: mark})
}

// Advance raises the mark of what is published for each of the gateways, as publishing it once more would, without a look at it.
func (s *Server) Advance(gateways []policy.Name, mark uint64) {
	for _, st := range s.advance(gateways, mark) {
		s.tell(st, true)
	}
}

// Withdraw takes a gateway's listeners away from its Envoys, also from those that come back later. It is forgotten when none is
// connected any more and the last has nothing of it, or when a thousand others are withdrawn whose Envoys are away for a shorter time.
func (s *Server) Withdraw(ctx context.Context, gateway policy.Name) error {
	return s.tellAll(ctx, gateway, &envoy.Resources{}, publication{withdrawn: true})
}

// tellAll makes p of r and publishes it.
func (s *Server) tellAll(ctx context.Context, gateway policy.Name, r *envoy.Resources, p publication) error {
	news, err := s.publish(ctx, gateway.String(), r, p)
	if err != nil {
		return fmt.Errorf("publishing gateway %s: %w", gateway, err)
	}
	if news {
		s.changed(gateway)
	}
	return nil
}

// publish says whether what Envoys returns has changed.
func (s *Server) publish(ctx context.Context, gateway string, r *envoy.Resources, p publication) (news bool, err error) {
	if err := checkClusters(r); err != nil {
		return false, err
	}
	snapshot, version, err := snapshotOf(r)
	if err != nil {
		return false, err
	}
	p.version, p.versions = version, snapshot.VersionMap
	s.publishing.Lock()
	defer s.publishing.Unlock()
	news, told := s.expect(gateway, p)
	if told {
		return news, nil
	}
	// Where some Envoys are told all are: what is published already is not sent a second time.
	return news, s.cache.SetSnapshot(context.WithoutCancel(ctx), gateway, snapshot)
}

// snapshotOf also gives the version of the whole.
func snapshotOf(r *envoy.Resources) (*cachev3.Snapshot, string, error) {
	content := map[resourcev3.Type][]types.Resource{
		resourcev3.ListenerType: resources(r.Listeners),
		resourcev3.RouteType:    resources(r.Routes),
		resourcev3.ClusterType:  resources(r.Clusters),
		resourcev3.SecretType:   resources(r.Secrets),
	}
	version, err := versionOf(content)
	if err != nil {
		return nil, "", err
	}
	snapshot, err := cachev3.NewSnapshot(version, content)
	if err != nil {
		return nil, "", err
	}
	if err := snapshot.Consistent(); err != nil {
		return nil, "", err
	}
	if err := snapshot.ConstructVersionMap(); err != nil {
		return nil, "", err
	}
	return snapshot, version, nil
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
		DeltaStreamOpenFunc: func(ctx context.Context, _ int64, _ string) error {
			return mtls.CheckPeer(ctx, "configuration holds Secrets")
		},
		DeltaStreamClosedFunc: func(id int64, _ *corev3.Node) { s.closed(id) },
		StreamDeltaRequestFunc: func(id int64, req *discoveryv3.DeltaDiscoveryRequest) error {
			return s.asked(id, req)
		},
		StreamDeltaResponseFunc: func(id int64, _ *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) {
			s.sent(id, r)
		},
	}
}

// kinds are the types that are served, by their short names.
var kinds = map[string]string{
	resourcev3.ListenerType: "Listener",
	resourcev3.RouteType:    "RouteConfiguration",
	resourcev3.ClusterType:  "Cluster",
	resourcev3.SecretType:   "Secret",
}
