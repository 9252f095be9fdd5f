package envoy

import (
	"net/http"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	aiv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ai_protocol_manager/v3"
	ai_typev3 "github.com/envoyproxy/go-control-plane/envoy/type/ai/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// preflightTimeout bounds an answer to OPTIONS, which is not metered and does not stream.
const preflightTimeout = 15 * time.Second

// routes is one RouteConfiguration for a gateway, named after it, so that a rejection points at its object. There is no
// route for everything else: what no route names is not forwarded.
func routes(g *policy.Gateway) *routev3.RouteConfiguration {
	host := &routev3.VirtualHost{Name: "all", Domains: []string{"*"}}
	type path struct {
		path   string
		prefix bool
	}
	seen := map[path]bool{}
	for _, r := range g.Routes {
		if p := (path{r.Path, r.Prefix}); !seen[p] {
			seen[p] = true
			host.Routes = append(host.Routes, preflight(g, r))
		}
		host.Routes = append(host.Routes, metered(g, r))
	}
	return &routev3.RouteConfiguration{Name: g.Name.String(), VirtualHosts: []*routev3.VirtualHost{host}}
}

func metered(g *policy.Gateway, r policy.Route) *routev3.Route {
	out := route(g, r, r.Method)
	out.Name = r.Name
	// A stream may run as long as something moves; the time of the whole response is not bounded.
	out.GetRoute().Timeout = durationpb.New(0)
	out.GetRoute().IdleTimeout = durationpb.New(idleTimeout(g, r.Backend))
	// What the provider cannot have seen is sent again: a kept connection may close just as a request takes it.
	out.GetRoute().RetryPolicy = &routev3.RetryPolicy{RetryOn: "connect-failure,refused-stream,reset-before-request", NumRetries: wrapperspb.UInt32(1)}
	out.TypedPerFilterConfig = bodyFormat(r.Protocol)
	return out
}

// preflight lets browsers ask what they may do. It brings no key, so it costs nothing.
func preflight(g *policy.Gateway, r policy.Route) *routev3.Route {
	out := route(g, r, http.MethodOptions)
	out.Name = r.Name + "/preflight"
	out.GetRoute().Timeout = durationpb.New(preflightTimeout)
	out.TypedPerFilterConfig = map[string]*anypb.Any{filterRateLimit: packed(&routev3.FilterConfig{Disabled: true})}
	// What is not counted must not be taken for another method.
	out.RequestHeadersToRemove = append(out.RequestHeadersToRemove, "x-http-method-override", "x-http-method", "x-method-override")
	return out
}

func route(g *policy.Gateway, r policy.Route, method string) *routev3.Route {
	match := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: r.Path}}
	switch {
	case r.Prefix && r.Path == "/":
		match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
	case r.Prefix:
		match.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: r.Path}
	}
	if method != "" {
		match.Headers = []*routev3.HeaderMatcher{{
			Name: ":method",
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Exact{Exact: method},
			}},
		}}
	}
	return &routev3.Route{
		Match:    match,
		Metadata: routeMetadata(g, r),
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: clusterName(g, r.Backend)},
		}},
		RequestHeadersToRemove: keyHeaders(g),
	}
}

func routeMetadata(g *policy.Gateway, r policy.Route) *corev3.Metadata {
	fields := map[string]*structpb.Value{
		descriptor.KeyGateway:  structpb.NewStringValue(g.Name.String()),
		descriptor.KeyResource: structpb.NewStringValue(r.Resource),
		descriptor.KeyProtocol: structpb.NewStringValue(string(protocols[r.Protocol].name)),
	}
	if r.Model != "" {
		fields[descriptor.KeyRouteModel] = structpb.NewStringValue(r.Model)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{descriptor.MetadataRoute: {Fields: fields}}}
}

// keyHeaders are not forwarded: the provider must not see its customer's customers. Accept-Encoding goes with them, because
// usage cannot be read from a compressed answer.
func keyHeaders(g *policy.Gateway) []string {
	names := []string{"accept-encoding"}
	for _, s := range g.Sources {
		if s.Header != "" && !slices.Contains(names, s.Header) {
			names = append(names, s.Header)
		}
	}
	return names
}

func idleTimeout(g *policy.Gateway, backend string) time.Duration {
	for _, b := range g.Backends {
		if b.Name == backend {
			return b.IdleTimeout
		}
	}
	return 0
}

// protocols says what each protocol is called in route metadata, and in which form Envoy reads its bodies. Embeddings speak
// OpenAI's chat protocol well enough. Of an opaque route the request is left alone; usage of images and transcriptions, where
// there is any, has the form of OpenAI's Responses.
var protocols = map[policy.Protocol]struct {
	name     descriptor.Protocol
	request  *ai_typev3.LLMProtocol
	response ai_typev3.LLMProtocol
}{
	policy.OpenAIChat:       {descriptor.ProtocolOpenAIChat, ai_typev3.LLMProtocol_OPENAI_CHAT_COMPLETIONS.Enum(), ai_typev3.LLMProtocol_OPENAI_CHAT_COMPLETIONS},
	policy.OpenAIEmbeddings: {descriptor.ProtocolOpenAIEmbeddings, ai_typev3.LLMProtocol_OPENAI_CHAT_COMPLETIONS.Enum(), ai_typev3.LLMProtocol_OPENAI_CHAT_COMPLETIONS},
	policy.Anthropic:        {descriptor.ProtocolAnthropic, ai_typev3.LLMProtocol_ANTHROPIC_MESSAGES.Enum(), ai_typev3.LLMProtocol_ANTHROPIC_MESSAGES},
	policy.Opaque:           {descriptor.ProtocolOpaque, nil, ai_typev3.LLMProtocol_OPENAI_RESPONSES},
}

func bodyFormat(p policy.Protocol) map[string]*anypb.Any {
	form := protocols[p]
	config := map[string]*anypb.Any{
		filterUsage: packed(&aiv3.AiProtocolManagerPerRoute{Response: &aiv3.ResponsePerRoute{LlmProtocol: form.response}}),
	}
	if form.request != nil {
		config[filterRequestInfo] = packed(&aiv3.AiProtocolManagerPerRoute{Request: &aiv3.RequestPerRoute{LlmProtocol: *form.request}})
	}
	return config
}
