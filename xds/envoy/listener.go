package envoy

import (
	"slices"
	"strings"
	"time"

	mutation_rulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tls_inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	early_mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

const (
	headersTimeout = 10 * time.Second
	// requestTimeout bounds the time in which a body must arrive, because Envoy holds it until then.
	requestTimeout = 300 * time.Second
	// maxStreams bounds the requests under way on one connection of HTTP/2, and so the bodies that a stranger can make Envoy
	// hold by it; Envoy's default is over a thousand.
	maxStreams = 100
	// streamWindow bounds how many bytes of a body that is not read first a client of HTTP/2 can make Envoy hold while the
	// request waits, beside the MiB of Envoy's own buffer; Envoy's default is 16 MiB.
	streamWindow = 1 << 20
	// internalPrefix begins the names of headers that exist between our own filters only, envoyPrefix those by which Envoy can
	// be told to retry, to hurry or to rename.
	internalPrefix = descriptor.HeaderPrefix
	envoyPrefix    = "x-envoy-"
)

// A port is a TCP port and the gateway's listeners that share it.
type port struct {
	number    uint32
	listeners []policy.Listener
}

// ports lists them in the order of their first listeners.
func ports(g *policy.Gateway, s Settings) []*port {
	var all []*port
	for _, l := range g.Listeners {
		if s.Port != 0 {
			l.Port = s.Port
		}
		i := slices.IndexFunc(all, func(p *port) bool { return p.number == l.Port })
		if i < 0 {
			i, all = len(all), append(all, &port{number: l.Port})
		}
		all[i].listeners = append(all[i].listeners, l)
	}
	return all
}

// domains are the host names that are served at the port.
func (p *port) domains() []string {
	var names []string
	for _, l := range p.listeners {
		if l.Hostname == "" {
			return []string{"*"}
		}
		names = append(names, l.Hostname)
	}
	slices.Sort(names)
	return names
}

// routesName names the routes for the port's domains. Where every name is served it is the gateway's own.
func (p *port) routesName(g *policy.Gateway) string {
	if names := p.domains(); names[0] != "*" {
		return g.Name.String() + "/" + strings.Join(names, ",")
	}
	return g.Name.String()
}

// filterChains is one chain for a port without TLS, where the routes tell names apart, and one for each listener with TLS.
func filterChains(g *policy.Gateway, p *port, v *vault) []*listenerv3.FilterChain {
	chain := func() *listenerv3.FilterChain {
		return &listenerv3.FilterChain{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(connectionManager(g, p.routesName(g)))},
		}}}
	}
	if len(p.listeners[0].Certificates) == 0 {
		return []*listenerv3.FilterChain{chain()}
	}
	var chains []*listenerv3.FilterChain
	for _, l := range p.listeners {
		socket, ok := downstreamTLS(l, v)
		if !ok {
			continue
		}
		c := chain()
		c.Name, c.TransportSocket = l.Name, socket
		if l.Hostname != "" {
			c.FilterChainMatch = &listenerv3.FilterChainMatch{ServerNames: []string{l.Hostname}}
		}
		chains = append(chains, c)
	}
	return chains
}

// listener is named after the first of the port's listeners.
func listener(g *policy.Gateway, p *port, chains []*listenerv3.FilterChain, bind string) *listenerv3.Listener {
	if bind == "" {
		bind = "0.0.0.0"
	}
	out := &listenerv3.Listener{
		Name:         g.Name.String() + "/" + p.listeners[0].Name,
		Address:      address(bind, p.number),
		FilterChains: chains,
	}
	if slices.ContainsFunc(chains, func(c *listenerv3.FilterChain) bool { return c.GetFilterChainMatch() != nil }) {
		out.ListenerFilters = []*listenerv3.ListenerFilter{{
			Name:       "envoy.filters.listener.tls_inspector", // tells the name that the client asks for
			ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: packed(&tls_inspectorv3.TlsInspector{})},
		}}
	}
	return out
}

func connectionManager(g *policy.Gateway, routes string) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: "tierkeeper",
		// The client's address is the peer's, or what the proxies before the gateway add to X-Forwarded-For: not what a client
		// claims there.
		UseRemoteAddress:  wrapperspb.Bool(true),
		XffNumTrustedHops: g.TrustedProxyHops,
		// No spelling of a path reaches another route than the one that is metered.
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams: wrapperspb.UInt32(maxStreams), InitialStreamWindowSize: wrapperspb.UInt32(streamWindow),
		},
		// Many servers take x_api_key for x-api-key: it would stand there beside the gateway's own.
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_DROP_HEADER},
		RequestHeadersTimeout:     durationpb.New(headersTimeout),
		RequestTimeout:            durationpb.New(requestTimeout + g.MaxWait), // A body that is not read first stands still meanwhile.
		StreamIdleTimeout:         durationpb.New(longestIdle(g)),
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{
			// Before route selection and before every filter: a mutation of the route would come too late. Envoy by itself drops
			// some of its own headers, and none where it takes the client for one of the house.
			extension("envoy.http.early_header_mutation.header_mutation", &early_mutationv3.HeaderMutation{
				Mutations: []*mutation_rulesv3.HeaderMutation{removePrefix(internalPrefix), removePrefix(envoyPrefix)},
			}),
		},
		AccessLogOptions: &hcmv3.HttpConnectionManager_HcmAccessLogOptions{AccessLogFlushInterval: durationpb.New(descriptor.Heartbeat)},
		AccessLog:        accessLogs(g),
		LocalReplyConfig: localReplies(),
		HttpFilters:      filters(g),
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			RouteConfigName: routes, ConfigSource: overADS(),
		}},
	}
}

// longestIdle is the bound where no route is known yet. Routes have their backend's own.
func longestIdle(g *policy.Gateway) time.Duration {
	var longest time.Duration
	for _, b := range g.Backends {
		longest = max(longest, idleTimeout(g, b.IdleTimeout))
	}
	return longest
}

// idleTimeout is that of a backend, and never less than a request may wait for its model: Envoy counts that as idle.
func idleTimeout(g *policy.Gateway, backend time.Duration) time.Duration {
	if g.MaxWait == 0 {
		return backend
	}
	return max(backend, patience(g))
}
