package envoy

import (
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutation_rulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	header_mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	upstream_codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tierkeeper/tierkeeper/policy"
)

// manyRequests stands for no bound: a stream is an open request, and Envoy's default of 1,024 would answer 503.
const manyRequests = 100_000

const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// providerLimits are the beginnings of the headers in which providers tell their own limits. Those are not the client's.
var providerLimits = []string{"x-ratelimit-", "anthropic-ratelimit-", "ratelimit"}

func clusterName(g *policy.Gateway, backend string) string { return g.Name.String() + "/" + backend }

// backendCluster strips the provider's limit headers in an upstream filter: a filter of the listener would strip those of our
// own denials too.
func backendCluster(g *policy.Gateway, b *policy.Backend) *clusterv3.Cluster {
	name := clusterName(g, b.Name)
	var strip []*mutation_rulesv3.HeaderMutation
	for _, prefix := range providerLimits {
		strip = append(strip, removePrefix(prefix))
	}
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: discoveryType(b.Endpoints)},
		DnsLookupFamily:      clusterv3.Cluster_V4_PREFERRED, // Envoy's default prefers ::1 for localhost
		ConnectTimeout:       durationpb.New(b.ConnectTimeout),
		LbPolicy:             clusterv3.Cluster_LEAST_REQUEST,
		LoadAssignment:       endpoints(name, b.Endpoints),
		CircuitBreakers:      unbounded(),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			httpOptions: packed(&upstreamsv3.HttpProtocolOptions{
				UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
					ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
						ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
							HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
						},
					},
				},
				HttpFilters: []*hcmv3.HttpFilter{
					filter("tierkeeper.strip_provider_limits", &header_mutationv3.HeaderMutation{
						Mutations: &header_mutationv3.Mutations{ResponseMutations: strip},
					}),
					filter("envoy.filters.http.upstream_codec", &upstream_codecv3.UpstreamCodec{}),
				},
			}),
		},
	}
}

func discoveryType(all []policy.Endpoint) clusterv3.Cluster_DiscoveryType {
	for _, e := range all {
		if _, err := netip.ParseAddr(e.Address); err != nil {
			return clusterv3.Cluster_STRICT_DNS
		}
	}
	return clusterv3.Cluster_STATIC
}

func endpoints(cluster string, all []policy.Endpoint) *endpointv3.ClusterLoadAssignment {
	var lb []*endpointv3.LbEndpoint
	for _, e := range all {
		lb = append(lb, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: address(e.Address, e.Port)},
		}})
	}
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: cluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: lb}},
	}
}

func unbounded() *clusterv3.CircuitBreakers {
	many := wrapperspb.UInt32(manyRequests)
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections: many, MaxPendingRequests: many, MaxRequests: many,
	}}}
}

// serviceCluster is a cluster of this project's own servers. Envoy retries no call to the service, so a dead or hung one must
// be noticed fast: by keepalive within 3 seconds.
func serviceCluster(name string, at policy.Endpoint) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: discoveryType([]policy.Endpoint{at})},
		DnsLookupFamily:      clusterv3.Cluster_V4_PREFERRED,
		ConnectTimeout:       durationpb.New(500 * time.Millisecond),
		LoadAssignment:       endpoints(name, []policy.Endpoint{at}),
		CircuitBreakers:      unbounded(),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			httpOptions: packed(&upstreamsv3.HttpProtocolOptions{
				UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
					ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
						ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
							Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
								ConnectionKeepalive: &corev3.KeepaliveSettings{
									Interval: durationpb.New(2 * time.Second), Timeout: durationpb.New(time.Second),
								},
							},
						},
					},
				},
			}),
		},
	}
}

func removePrefix(prefix string) *mutation_rulesv3.HeaderMutation {
	return &mutation_rulesv3.HeaderMutation{Action: &mutation_rulesv3.HeaderMutation_RemoveOnMatch_{
		RemoveOnMatch: &mutation_rulesv3.HeaderMutation_RemoveOnMatch{KeyMatcher: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix},
		}},
	}}
}
