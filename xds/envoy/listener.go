package envoy

import (
	"time"

	mutation_rulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
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
	// internalPrefix begins the names of headers that exist between our own filters only.
	internalPrefix = "x-tk-"
)

func listener(g *policy.Gateway, l policy.Listener, s Settings) *listenerv3.Listener {
	bind := s.BindAddress
	if bind == "" {
		bind = "0.0.0.0"
	}
	return &listenerv3.Listener{
		Name:    g.Name.String() + "/" + l.Name,
		Address: address(bind, l.Port),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(connectionManager(g))},
		}}}},
	}
}

func connectionManager(g *policy.Gateway) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: "tierkeeper",
		// The client's address is the peer's, not what X-Forwarded-For claims.
		UseRemoteAddress: wrapperspb.Bool(true),
		// No spelling of a path reaches another route than the one that is metered.
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,
		RequestHeadersTimeout:        durationpb.New(headersTimeout),
		RequestTimeout:               durationpb.New(requestTimeout),
		StreamIdleTimeout:            durationpb.New(longestIdle(g)),
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{
			// Before route selection and before every filter: a mutation of the route would come too late.
			extension("envoy.http.early_header_mutation.header_mutation", &early_mutationv3.HeaderMutation{
				Mutations: []*mutation_rulesv3.HeaderMutation{removePrefix(internalPrefix)},
			}),
		},
		AccessLogOptions: &hcmv3.HttpConnectionManager_HcmAccessLogOptions{AccessLogFlushInterval: durationpb.New(descriptor.Heartbeat)},
		AccessLog:        signsOfLife(),
		LocalReplyConfig: localReplies(),
		HttpFilters:      filters(g),
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			RouteConfigName: g.Name.String(),
			ConfigSource: &corev3.ConfigSource{
				ResourceApiVersion:    corev3.ApiVersion_V3,
				ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
			},
		}},
	}
}

// longestIdle is the bound where no route is known yet. Routes have their backend's own.
func longestIdle(g *policy.Gateway) time.Duration {
	var longest time.Duration
	for _, b := range g.Backends {
		longest = max(longest, b.IdleTimeout)
	}
	return longest
}
