package envoy

import (
	"net/netip"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutation_rulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	common_dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	credential_injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	header_mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	upstream_codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tierkeeper/tierkeeper/policy"
)

// manyRequests stands for no bound: a stream is an open request, and Envoy's default of 1,024 would answer 503.
const manyRequests = 100_000

const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// providerLimits are the beginnings of the headers in which providers tell their own limits, or ours would stand beside
// theirs. Those are not the client's.
var providerLimits = []string{"x-ratelimit-", "anthropic-ratelimit-", "ratelimit", "x-request-priority"}

func clusterName(g *policy.Gateway, backend string) string { return g.Name.String() + "/" + backend }

// backendCluster says how a backend is reached; false if something of a Secret is missing for it. Its filters are upstream
// filters, which see neither our denials nor our headers: one of the listener would strip the limits that our denials tell
// with those of the provider, and a credential that is added before the router would be removed with the client's keys.
func backendCluster(g *policy.Gateway, b *policy.Backend, v *vault) (*clusterv3.Cluster, bool) {
	name := clusterName(g, b.Name)
	options := &upstreamsv3.HttpProtocolOptions{UpstreamProtocolOptions: http1()}
	var socket *corev3.TransportSocket
	if b.TLS != nil {
		var ok bool
		if socket, ok = upstreamTLS(b.TLS, v); !ok {
			return nil, false
		}
		options.UpstreamProtocolOptions = negotiated()
	}
	if b.Credential != nil {
		injector, ok := credential(b.Credential, v)
		if !ok {
			return nil, false
		}
		options.HttpFilters = append(options.HttpFilters, injector)
	}
	options.HttpFilters = append(options.HttpFilters, stripProviderLimits(),
		filter("envoy.filters.http.upstream_codec", &upstream_codecv3.UpstreamCodec{}))
	return &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: discoveryType(b.Endpoints)},
		DnsLookupFamily:               clusterv3.Cluster_V4_PREFERRED, // Envoy's default prefers ::1 for localhost
		ConnectTimeout:                durationpb.New(b.ConnectTimeout),
		LbPolicy:                      clusterv3.Cluster_LEAST_REQUEST,
		LbSubsetConfig:                pools(b.Endpoints),
		LoadAssignment:                endpoints(name, b.Endpoints),
		CircuitBreakers:               unbounded(),
		TransportSocket:               socket,
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpOptions: packed(options)},
	}, true
}

func http1() *upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_ {
	return &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
			HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
		},
	}}
}

// negotiated is HTTP/2 where the backend offers it.
func negotiated() *upstreamsv3.HttpProtocolOptions_AutoConfig {
	return &upstreamsv3.HttpProtocolOptions_AutoConfig{AutoConfig: &upstreamsv3.HttpProtocolOptions_AutoHttpConfig{
		HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
	}}
}

// credential adds the gateway's own key to each request, in the place of whatever the client sent there.
func credential(c *policy.BackendCredential, v *vault) (*hcmv3.HttpFilter, bool) {
	secret, ok := v.credential(c)
	if !ok {
		return nil, false
	}
	return filter(filterCredential, &credential_injectorv3.CredentialInjector{
		Overwrite: true,
		Credential: extension("envoy.http.injected_credentials.generic", &genericv3.Generic{
			Credential: secret, Header: c.Header, HeaderValuePrefix: c.Prefix,
		}),
	}), true
}

func stripProviderLimits() *hcmv3.HttpFilter {
	var strip []*mutation_rulesv3.HeaderMutation
	for _, prefix := range providerLimits {
		strip = append(strip, removePrefix(prefix))
	}
	return filter("tierkeeper.strip_provider_limits", &header_mutationv3.HeaderMutation{
		Mutations: &header_mutationv3.Mutations{ResponseMutations: strip},
	})
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
	pooled := slices.ContainsFunc(all, hasPool)
	var lb []*endpointv3.LbEndpoint
	for _, e := range all {
		at := &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: address(e.Address, e.Port)},
		}}
		if pooled {
			at.Metadata = labels(e)
		}
		lb = append(lb, at)
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

func xdsServers(s Servers) *clusterv3.Cluster {
	c := ownCluster(xdsCluster, s.XDS)
	if s.TLS != nil {
		c.TransportSocket = s.TLS.socket(s.TLS.XDSName, s.XDS)
	}
	return c
}

// serviceCluster is the rate-limit service. Envoy retries no call to it, so a replica that is dead or hung must be noticed
// fast, and one that is back as well: the first call that gets no answer takes it out, and so do two health checks; the next
// health check that it answers brings it back. Calls under way go on meanwhile. Where no replica is left calls fail at once. One
// that leaves DNS is asked for as long as it is healthy.
func serviceCluster(s Servers) *clusterv3.Cluster {
	c := ownCluster(ServiceCluster, s.Service)
	if s.TLS != nil {
		c.TransportSocket = s.TLS.socket(s.TLS.ServiceName, s.Service)
	}
	c.HealthChecks = []*corev3.HealthCheck{{
		Interval:           durationpb.New(healthEvery),
		NoTrafficInterval:  durationpb.New(healthEvery),
		Timeout:            durationpb.New(healthTimeout),
		UnhealthyThreshold: wrapperspb.UInt32(2),
		HealthyThreshold:   wrapperspb.UInt32(1),
		HealthChecker:      &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{}},
	}}
	c.OutlierDetection = &clusterv3.OutlierDetection{
		SplitExternalLocalOriginErrors: true,
		ConsecutiveLocalOriginFailure:  wrapperspb.UInt32(1), // with more of them every request would wait for its own timeout
		MaxEjectionPercent:             wrapperspb.UInt32(100),
		// A replica that answers with errors is there.
		EnforcingConsecutive_5Xx:               wrapperspb.UInt32(0),
		EnforcingSuccessRate:                   wrapperspb.UInt32(0),
		SuccessfulActiveHealthCheckUnejectHost: wrapperspb.Bool(true),
	}
	// By default Envoy would go on asking those that do not answer, if they are many.
	c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: 0}}
	return c
}

const (
	findEvery     = 2 * time.Second
	healthEvery   = time.Second
	healthTimeout = time.Second
	// A connection whose server shows no sign of life is given up after pingEvery and pingTimeout, with all requests that wait there
	// for a model: a machine that is short of processors for a moment must not cost them their place.
	pingEvery   = 2 * time.Second
	pingTimeout = 3 * time.Second
)

// ownCluster is a cluster of this project's own servers. In a rollout all that Envoy knows of may go: those that come must be found
// soon after they are in DNS, whatever that says of how long its answers hold.
func ownCluster(name string, at policy.Endpoint) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: discoveryType([]policy.Endpoint{at})},
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
									Interval: durationpb.New(pingEvery), Timeout: durationpb.New(pingTimeout),
								},
							},
						},
					},
				},
			}),
		},
	}
	if c.GetType() == clusterv3.Cluster_STRICT_DNS {
		c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name:        "envoy.cluster.dns",
			TypedConfig: packed(&dnsv3.DnsCluster{DnsRefreshRate: durationpb.New(findEvery), DnsLookupFamily: common_dnsv3.DnsLookupFamily_V4_PREFERRED}),
		}}
	}
	return c
}

func removePrefix(prefix string) *mutation_rulesv3.HeaderMutation {
	return &mutation_rulesv3.HeaderMutation{Action: &mutation_rulesv3.HeaderMutation_RemoveOnMatch_{
		RemoveOnMatch: &mutation_rulesv3.HeaderMutation_RemoveOnMatch{KeyMatcher: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix},
		}},
	}}
}
