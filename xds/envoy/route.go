package envoy

import (
	"net/http"
	"regexp"
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

// geminiCalls is what follows the prefix in the calls that make something. A model is written in characters that need no
// percent-encoding: spelt otherwise it would be another model here and the same one at the provider.
const geminiCalls = `/[A-Za-z0-9._~@-]+:(generateContent|streamGenerateContent)`

// geminiMisspelt is what follows the prefix in what could be taken for such a call.
const geminiMisspelt = `/.*(%|(?i::(stream)?generatecontent)).*`

// preflightTimeout bounds an answer to OPTIONS, which is not metered and does not stream.
const preflightTimeout = 15 * time.Second

// routes is one RouteConfiguration of a gateway, named after it, so that a rejection points at its object. There is no route
// for everything else: what no route names is not forwarded. Backends that are not ready answer 503.
func routes(g *policy.Gateway, name string, domains []string, ready map[string]*policy.Backend) *routev3.RouteConfiguration {
	host := &routev3.VirtualHost{Name: "all", Domains: domains}
	type path struct {
		path   string
		prefix bool
		gemini bool
	}
	seen := map[path]bool{}
	for i, r := range g.Routes {
		backend := ready[r.Backend]
		if p := (path{r.Path, r.Prefix, isGemini(r)}); !seen[p] {
			seen[p] = true
			host.Routes = append(host.Routes, preflight(g, r, backend))
		}
		host.Routes = append(host.Routes, forwarding(g, r, backend))
		isCall := func(other policy.Route) bool { return isGemini(other) && other.Path == r.Path }
		if isCall(r) && (i+1 == len(g.Routes) || !isCall(g.Routes[i+1])) {
			host.Routes = append(host.Routes, misspelt(g, r))
		}
	}
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{host}, IgnorePortInHostMatching: domains[0] != "*"}
}

func forwarding(g *policy.Gateway, r policy.Route, b *policy.Backend) *routev3.Route {
	out := route(g, r, r.Method)
	out.Name = r.Name
	if b == nil {
		return unready(out)
	}
	out.Action = forward(g, r, b, &routev3.RouteAction{
		// A stream may run as long as something moves; the time of the whole response is not bounded.
		Timeout:     durationpb.New(0),
		IdleTimeout: durationpb.New(idleTimeout(g, b.IdleTimeout)),
		// What the provider cannot have seen is sent again: a kept connection may close just as a request takes it.
		RetryPolicy: &routev3.RetryPolicy{RetryOn: "connect-failure,refused-stream,reset-before-request", NumRetries: wrapperspb.UInt32(1)},
	})
	if !r.Unmetered {
		out.TypedPerFilterConfig = bodyFormat(r.Protocol)
	}
	if isGemini(r) {
		out.RequestHeadersToRemove = append(out.RequestHeadersToRemove, maskHeader)
	}
	return out
}

// preflight lets browsers ask what they may do. It brings no key, so it costs nothing and is given no credential.
func preflight(g *policy.Gateway, r policy.Route, b *policy.Backend) *routev3.Route {
	out := route(g, r, http.MethodOptions)
	out.Name = r.Name + "/preflight"
	if b == nil {
		return unready(out)
	}
	out.Action = forward(g, r, b, &routev3.RouteAction{Timeout: durationpb.New(preflightTimeout)})
	off := packed(&routev3.FilterConfig{Disabled: true})
	out.TypedPerFilterConfig = map[string]*anypb.Any{filterRateLimit: off}
	if b.Credential != nil {
		out.TypedPerFilterConfig[filterCredential] = off
	}
	// What is not counted must not be taken for another method.
	out.RequestHeadersToRemove = append(out.RequestHeadersToRemove, "x-http-method-override", "x-http-method", "x-method-override")
	return out
}

// misspelt refuses what looks like a call below the prefix of a Gemini route and is written otherwise than calls are, with
// percent-encoding or with something before or behind. What the provider makes of it nobody knows, and a route for what else
// is below the prefix would take it for no call.
func misspelt(g *policy.Gateway, r policy.Route) *routev3.Route {
	out := route(g, r, "")
	out.Name = r.Name + "/misspelt"
	out.Match.PathSpecifier = regex(regexp.QuoteMeta(r.Path) + geminiMisspelt)
	out.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: http.StatusNotFound}}
	out.TypedPerFilterConfig = map[string]*anypb.Any{filterRateLimit: packed(&routev3.FilterConfig{Disabled: true})}
	return out
}

// forward sends requests to a backend, without the gateway's path prefix. A backend that is reached over TLS serves the name
// that it proves, and no other.
func forward(g *policy.Gateway, r policy.Route, b *policy.Backend, action *routev3.RouteAction) *routev3.Route_Route {
	action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: clusterName(g, b.Name)}
	if b.TLS != nil {
		action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: b.TLS.ServerName}
	}
	if r.PathPrefix != "" {
		action.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{
			Pattern: &matcherv3.RegexMatcher{Regex: "^" + regexp.QuoteMeta(r.PathPrefix) + "/?"}, Substitution: "/",
		}
	}
	return &routev3.Route_Route{Route: action}
}

func unready(out *routev3.Route) *routev3.Route {
	out.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: http.StatusServiceUnavailable}}
	return out
}

func route(g *policy.Gateway, r policy.Route, method string) *routev3.Route {
	match := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: r.Path}}
	switch {
	case isGemini(r):
		match.PathSpecifier = regex(regexp.QuoteMeta(r.Path) + geminiCalls)
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
		Match:                  match,
		Metadata:               routeMetadata(g, r),
		RequestHeadersToRemove: privateHeaders(g),
	}
}

func regex(text string) *routev3.RouteMatch_SafeRegex {
	return &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: text}}
}

func routeMetadata(g *policy.Gateway, r policy.Route) *corev3.Metadata {
	fields := map[string]*structpb.Value{
		descriptor.KeyGateway:  structpb.NewStringValue(g.Name.String()),
		descriptor.KeyProtocol: structpb.NewStringValue(string(protocols[r.Protocol].name)),
	}
	if r.Resource != "" {
		fields[descriptor.KeyResource] = structpb.NewStringValue(r.Resource)
	}
	if r.Unmetered {
		fields[descriptor.KeyUnmetered] = structpb.NewStringValue("true")
	}
	if r.Model != "" {
		fields[descriptor.KeyRouteModel] = structpb.NewStringValue(r.Model)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{descriptor.MetadataRoute: {Fields: fields}}}
}

// privateHeaders are not forwarded: the provider must not see its customer's customers, neither their keys nor where they are,
// and clients must not say on whose account the gateway's own key is used. Accept-Encoding goes with them, because usage
// cannot be read from a compressed answer.
func privateHeaders(g *policy.Gateway) []string {
	names := []string{
		"accept-encoding",
		"forwarded", "x-forwarded-for", "x-real-ip", "x-envoy-external-address",
		"openai-organization", "openai-project", "x-goog-user-project",
	}
	for _, s := range g.Sources {
		if s.Header != "" && !slices.Contains(names, s.Header) {
			names = append(names, s.Header)
		}
	}
	return names
}

// protocols says what each protocol is called in route metadata, and in which form Envoy reads its bodies. Completions and
// embeddings speak OpenAI's chat protocol well enough. Where the form of a request is unspecified, its model and its size are
// read and no maximum of output; where there is none it is left alone. Usage of images and transcriptions, where there is
// any, has the form of OpenAI's Responses.
var protocols = map[policy.Protocol]struct {
	name     descriptor.Protocol
	request  *ai_typev3.LLMProtocol
	response ai_typev3.LLMProtocol
}{
	policy.Opaque:               {descriptor.ProtocolOpaque, nil, ai_typev3.LLMProtocol_OPENAI_RESPONSES},
	policy.JSONBody:             {descriptor.ProtocolJSON, ai_typev3.LLMProtocol_LLM_PROTOCOL_UNSPECIFIED.Enum(), ai_typev3.LLMProtocol_OPENAI_RESPONSES},
	policy.OpenAIChat:           {descriptor.ProtocolOpenAIChat, ai_typev3.LLMProtocol_OPENAI_CHAT_COMPLETIONS.Enum(), ai_typev3.LLMProtocol_OPENAI_CHAT_COMPLETIONS},
	policy.OpenAICompletions:    {descriptor.ProtocolOpenAICompletions, ai_typev3.LLMProtocol_OPENAI_CHAT_COMPLETIONS.Enum(), ai_typev3.LLMProtocol_OPENAI_CHAT_COMPLETIONS},
	policy.OpenAIResponses:      {descriptor.ProtocolOpenAIResponses, ai_typev3.LLMProtocol_OPENAI_RESPONSES.Enum(), ai_typev3.LLMProtocol_OPENAI_RESPONSES},
	policy.OpenAIEmbeddings:     {descriptor.ProtocolOpenAIEmbeddings, ai_typev3.LLMProtocol_OPENAI_CHAT_COMPLETIONS.Enum(), ai_typev3.LLMProtocol_OPENAI_CHAT_COMPLETIONS},
	policy.OpenAIImages:         {descriptor.ProtocolOpenAIImages, ai_typev3.LLMProtocol_LLM_PROTOCOL_UNSPECIFIED.Enum(), ai_typev3.LLMProtocol_OPENAI_RESPONSES},
	policy.OpenAITranscriptions: {descriptor.ProtocolOpenAITranscriptions, nil, ai_typev3.LLMProtocol_OPENAI_RESPONSES},
	policy.Anthropic:            {descriptor.ProtocolAnthropic, ai_typev3.LLMProtocol_ANTHROPIC_MESSAGES.Enum(), ai_typev3.LLMProtocol_ANTHROPIC_MESSAGES},
	policy.Gemini:               {descriptor.ProtocolGemini, ai_typev3.LLMProtocol_GEMINI_GENERATE_CONTENT.Enum(), ai_typev3.LLMProtocol_GEMINI_GENERATE_CONTENT},
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
