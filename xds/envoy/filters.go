package envoy

import (
	mutation_rulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	content_jsonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/content_parsers/json/v3"
	aiv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ai_protocol_manager/v3"
	body_sizev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/body_size_limit/v3"
	header_mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	header_to_metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	json_to_metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/json_to_metadata/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	sse_to_metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/sse_to_metadata/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	request_infov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/ai_filters/request_info/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// Names of filters that routes configure.
const (
	filterRequestInfo = "tierkeeper.request_info"
	filterUsage       = "envoy.filters.http.ai_protocol_manager"
	filterRateLimit   = "envoy.filters.http.ratelimit"
	filterCredential  = "tierkeeper.credential" //nolint:gosec // Of clusters; the name of a filter.
)

const (
	maxUsageJSON   = 10 << 20 // bytes; the largest that Envoy allows. Usage of a longer answer is estimated.
	maxUsageEvent  = 10 << 20 // bytes; the largest that Envoy allows. An image comes in one event with its usage.
	maxUsageEvents = 1 << 20  // in one stream. OpenAI sends one for each token, and usage with the last.
	hiddenType     = internalPrefix + "content-type"
)

// filters is the chain of the listener. Requests pass it from the first to the last, responses from the last to the first.
//
// The manager that reads requests is kept apart from the one that reads usage, and the type of the response is hidden from
// it: where it has read a request it would write every SSE event and JSON answer anew, and not byte for byte.
func filters(g *policy.Gateway) []*hcmv3.HttpFilter {
	chain := []*hcmv3.HttpFilter{
		// 413, before anything is parsed or asked.
		filter("envoy.filters.http.body_size_limit", &body_sizev3.BodySizeLimit{MaxRequestBytes: wrapperspb.UInt64(uint64(g.MaxBodyBytes))}), //nolint:gosec // The schema bounds it.
		filter("tierkeeper.show_type", mutateResponse(
			remove("content-type"), setFromHeader("content-type", hiddenType), remove(hiddenType))),
		filter(filterRequestInfo, &aiv3.AiProtocolManager{
			RequestHandling: &aiv3.RequestHandling{ReserializeBody: aiv3.RequestHandling_DISABLE},
			Filters: []*corev3.TypedExtensionConfig{
				// One token per byte: the size of the body, from which the service estimates.
				extension("envoy.http.ai_filters.request_info", &request_infov3.RequestInfo{
					TokenEstimation: &request_infov3.RequestInfo_TokenEstimation{TokensPerByte: 1},
				}),
			},
		}),
		filter("tierkeeper.hide_type", mutateResponse(
			remove(hiddenType), setFromHeader(hiddenType, "content-type"), set("content-type", "application/octet-stream"))),
		filter(filterUsage, &aiv3.AiProtocolManager{
			ResponseHandling: &aiv3.ResponseHandling{TokenUsage: &aiv3.TokenUsageExtraction{
				Limits: &aiv3.TokenUsageExtractionLimits{
					MaxJsonBodySize: wrapperspb.UInt32(maxUsageJSON), MaxParsedSseEvents: wrapperspb.UInt32(maxUsageEvents),
				},
			}},
		}),
		filter("envoy.filters.http.sse_to_metadata", partialUsage()),
		filter(filterRateLimit, rateLimit(g)),
		filter("envoy.filters.http.header_to_metadata", &header_to_metadatav3.Config{
			RequestRules: []*header_to_metadatav3.Config_Rule{{
				Header: descriptor.HeaderPool, OnHeaderPresent: intoMetadata(loadBalancer, poolLabel), Remove: true,
			}},
			ResponseRules: []*header_to_metadatav3.Config_Rule{{
				Header: "content-type", OnHeaderPresent: intoMetadata(descriptor.MetadataRoute, descriptor.KeyResponseType),
			}},
		}),
	}
	chain = append(chain, stripQuery(g)...)
	return append(chain, filter("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true}))
}

func filter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(config)}}
}

func intoMetadata(namespace, key string) *header_to_metadatav3.Config_KeyValuePair {
	return &header_to_metadatav3.Config_KeyValuePair{MetadataNamespace: namespace, Key: key, Type: header_to_metadatav3.Config_STRING}
}

// partialUsage reads usage while the events of a stream pass: the manager publishes it at a clean end only, and would leave
// nothing of a stream that is cut. The last value of each kind wins.
func partialUsage() *sse_to_metadatav3.SseToMetadata {
	rule := func(key string, path ...string) *content_jsonv3.JsonContentParser_RuleConfig {
		r := &json_to_metadatav3.JsonToMetadata_Rule{OnPresent: &json_to_metadatav3.JsonToMetadata_KeyValuePair{
			MetadataNamespace: descriptor.MetadataRoute, Key: key,
			Type: json_to_metadatav3.JsonToMetadata_STRING, // descriptors can hold nothing else
		}}
		for _, p := range path {
			r.Selectors = append(r.Selectors, &json_to_metadatav3.JsonToMetadata_Selector{
				Selector: &json_to_metadatav3.JsonToMetadata_Selector_Key{Key: p},
			})
		}
		return &content_jsonv3.JsonContentParser_RuleConfig{Rule: r}
	}
	return &sse_to_metadatav3.SseToMetadata{ResponseRules: &sse_to_metadatav3.SseToMetadata_ProcessingRules{
		MaxEventSize: wrapperspb.UInt32(maxUsageEvent),
		ContentParser: extension("envoy.content_parsers.json", &content_jsonv3.JsonContentParser{
			Rules: []*content_jsonv3.JsonContentParser_RuleConfig{
				// OpenAI's chat and completions, at the end and only if the request asked for it.
				rule(descriptor.KeyPartialInput, "usage", "prompt_tokens"),
				rule(descriptor.KeyPartialOutput, "usage", "completion_tokens"),
				rule(descriptor.KeyPartialCached, "usage", "prompt_tokens_details", "cached_tokens"),
				// OpenAI's Responses, at the end.
				rule(descriptor.KeyPartialInput, "response", "usage", "input_tokens"),
				rule(descriptor.KeyPartialOutput, "response", "usage", "output_tokens"),
				rule(descriptor.KeyPartialCached, "response", "usage", "input_tokens_details", "cached_tokens"),
				// Anthropic: message_start, then message_delta. What a cache saved is not part of input_tokens. OpenAI's transcriptions,
				// speech and images end with numbers of the same names.
				rule(descriptor.KeyPartialInput, "message", "usage", "input_tokens"),
				rule(descriptor.KeyPartialOutput, "message", "usage", "output_tokens"),
				rule(descriptor.KeyPartialCacheRead, "message", "usage", "cache_read_input_tokens"),
				rule(descriptor.KeyPartialCacheWrite, "message", "usage", "cache_creation_input_tokens"),
				rule(descriptor.KeyPartialInput, "usage", "input_tokens"),
				rule(descriptor.KeyPartialOutput, "usage", "output_tokens"),
				rule(descriptor.KeyPartialCacheRead, "usage", "cache_read_input_tokens"),
				rule(descriptor.KeyPartialCacheWrite, "usage", "cache_creation_input_tokens"),
				// Gemini: totals so far in every event. Thoughts are not part of the candidates, nor what tools put into the prompt of
				// the prompt.
				rule(descriptor.KeyPartialInput, "usageMetadata", "promptTokenCount"),
				rule(descriptor.KeyPartialToolUse, "usageMetadata", "toolUsePromptTokenCount"),
				rule(descriptor.KeyPartialCached, "usageMetadata", "cachedContentTokenCount"),
				rule(descriptor.KeyPartialOutput, "usageMetadata", "candidatesTokenCount"),
				rule(descriptor.KeyPartialThoughts, "usageMetadata", "thoughtsTokenCount"),
			},
		}),
	}}
}

func mutateResponse(mutations ...*mutation_rulesv3.HeaderMutation) *header_mutationv3.HeaderMutation {
	return &header_mutationv3.HeaderMutation{Mutations: &header_mutationv3.Mutations{ResponseMutations: mutations}}
}

func remove(name string) *mutation_rulesv3.HeaderMutation {
	return &mutation_rulesv3.HeaderMutation{Action: &mutation_rulesv3.HeaderMutation_Remove{Remove: name}}
}

func set(name, value string) *mutation_rulesv3.HeaderMutation {
	return &mutation_rulesv3.HeaderMutation{Action: &mutation_rulesv3.HeaderMutation_Append{Append: overwrite(name, value)}}
}

func setFromHeader(name, from string) *mutation_rulesv3.HeaderMutation {
	return set(name, "%RESP("+from+")%")
}
