package envoy

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimit_configv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	exprv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// answerTimeout is how long Envoy waits for the service, beside the time for which a request may wait for its model. Envoy counts it from
// when the turn of its event loop began in which it asks, and takes a service for out that lets one call wait for longer. A turn that
// reads an event of 9 MB takes a fifth of a second, and several times that where processors are short.
const answerTimeout = 2 * time.Second

// patience is how long Envoy waits for the service: a request that waits for its model is a call without an answer, and the service
// words the denial. Where that may take long, a service that hangs is noticed by the connection, long before.
func patience(g *policy.Gateway) time.Duration { return g.MaxWait + answerTimeout }

// rateLimit asks the service before a request is forwarded, and tells it when the stream has ended. The descriptors stand
// in the filter, not in routes, so that no route can forget them.
func rateLimit(g *policy.Gateway) *ratelimitv3.RateLimit {
	return &ratelimitv3.RateLimit{
		Domain:  descriptor.Domain,
		Timeout: durationpb.New(patience(g)),
		RateLimitService: &ratelimit_configv3.RateLimitServiceConfig{
			TransportApiVersion: corev3.ApiVersion_V3, GrpcService: grpcService(ServiceCluster),
		},
		FailureModeDeny: !g.AllowUncounted,
		StatusOnError:   &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		// The service alone says Retry-After: Envoy's own would stand on every denial, 401 included.
		EnableRetryAfterHeader:         false,
		DisableXEnvoyRatelimitedHeader: true,
		RateLimits:                     []*routev3.RateLimit{reserve(g), settle()},
	}
}

func reserve(g *policy.Gateway) *routev3.RateLimit {
	actions := append([]*routev3.RateLimit_Action{constant(descriptor.KeyPhase, descriptor.PhaseReserve)}, credentials(g.Sources)...)
	// The remote_address action, because the CEL attribute of that meaning has a port.
	actions = append(actions, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RemoteAddress_{
		RemoteAddress: &routev3.RateLimit_Action_RemoteAddress{},
	}})
	for _, key := range []string{descriptor.KeyGateway, descriptor.KeyResource, descriptor.KeyProtocol, descriptor.KeyRouteModel, descriptor.KeyUnmetered} {
		actions = append(actions, metadata(routev3.RateLimit_Action_MetaData_ROUTE_ENTRY, descriptor.MetadataRoute, key, true))
	}
	const info = `metadata.typed_filter_metadata["envoy.ai.request_info"].`
	return &routev3.RateLimit{Actions: append(actions,
		expression(descriptor.KeyModel, info+"model"),
		expression(descriptor.KeyMaxOutput, info+"max_output_tokens"),
		expression(descriptor.KeyInputBytes, info+"estimated_input_tokens"),
		expression(descriptor.KeyStream, info+"stream"),
	)}
}

// credentials sends each place once, also where several sources name it with different prefixes.
func credentials(sources []policy.KeySource) []*routev3.RateLimit_Action {
	var actions []*routev3.RateLimit_Action
	seen := map[policy.KeySource]bool{}
	for _, s := range sources {
		place := policy.KeySource{Header: s.Header, Query: s.Query}
		if seen[place] {
			continue
		}
		seen[place] = true
		if s.Header != "" {
			actions = append(actions, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
				RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{
					HeaderName: s.Header, DescriptorKey: descriptor.KeyHeader + s.Header, SkipIfAbsent: true,
				},
			}})
			continue
		}
		actions = append(actions, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_QueryParameters_{
			QueryParameters: &routev3.RateLimit_Action_QueryParameters{
				QueryParameterName: s.Query, DescriptorKey: descriptor.KeyQuery + s.Query, SkipIfAbsent: true,
			},
		}})
	}
	return actions
}

// settle carries the lease back. Without one (denied, failed, never asked) Envoy drops the whole descriptor and makes no
// call. The headers of the client must not be asked for here: by now they may hold the provider's key.
func settle() *routev3.RateLimit {
	actions := []*routev3.RateLimit_Action{
		constant(descriptor.KeyPhase, descriptor.PhaseSettle),
		metadata(routev3.RateLimit_Action_MetaData_DYNAMIC, descriptor.MetadataService, descriptor.KeyLease, false),
		expression(descriptor.KeyCode, "response.code"),
		expression(descriptor.KeyOutputBytes, "response.size"),
	}
	// Never the reported total: embeddings report 0 there.
	const usage = `metadata.typed_filter_metadata["envoy.ai.token_usage"].`
	actions = append(actions,
		expression(descriptor.KeyInputTokens, usage+"input_tokens"),
		expression(descriptor.KeyOutputTokens, usage+"output_tokens"),
		expression(descriptor.KeyCachedTokens, usage+"input_token_details.cached_tokens"),
		expression(descriptor.KeyThoughts, usage+"output_token_details.reasoning_tokens"))
	for _, key := range []string{
		descriptor.KeyResponseType,
		descriptor.KeyPartialInput, descriptor.KeyPartialOutput, descriptor.KeyPartialCached, descriptor.KeyPartialCacheRead,
		descriptor.KeyPartialCacheWrite, descriptor.KeyPartialToolUse, descriptor.KeyPartialThoughts,
	} {
		actions = append(actions, metadata(routev3.RateLimit_Action_MetaData_DYNAMIC, descriptor.MetadataRoute, key, true))
	}
	return &routev3.RateLimit{ApplyOnStreamDone: true, Actions: actions}
}

func constant(key, value string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{
		GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: key, DescriptorValue: value},
	}}
}

func metadata(source routev3.RateLimit_Action_MetaData_Source, namespace, key string, skipIfAbsent bool) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Metadata{Metadata: &routev3.RateLimit_Action_MetaData{
		DescriptorKey: key, Source: source, SkipIfAbsent: skipIfAbsent,
		MetadataKey: &metadatav3.MetadataKey{
			Key:  namespace,
			Path: []*metadatav3.MetadataKey_PathSegment{{Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: key}}},
		},
	}}}
}

// expression sends the value of a CEL expression, or nothing if it has none.
func expression(key, text string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Extension{
		Extension: extension("envoy.rate_limit_descriptors.expr", &exprv3.Descriptor{
			DescriptorKey: key, SkipIfError: true, ExprSpecifier: &exprv3.Descriptor_Text{Text: text},
		}),
	}}
}
