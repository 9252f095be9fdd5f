package envoy

import (
	"fmt"
	"net/http"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// ownReplies are the answers that Envoy gives by itself, before the service is asked or because it cannot be: which ones,
// as a CEL expression, and what clients are told in each shape.
var ownReplies = []struct {
	when          string
	kind          string
	anthropicKind string // empty where there is no route, so nobody knows the protocol
	status        int    // which Google's shape repeats
	code          string
	message       string
	retryAfter    int // seconds; 0 for none
}{
	{
		when: `response.code_details == "request_payload_too_large"`,
		kind: "invalid_request_error", anthropicKind: "request_too_large", status: http.StatusRequestEntityTooLarge, code: "request_too_large",
		message: "The request body is larger than this gateway accepts.",
	},
	{
		// Envoy's parser refuses more than broken JSON: 16 levels of nesting, 262,144 values, names of 256 bytes, or a name
		// that stands twice are the most it reads.
		when: `response.code == 400 && response.code_details.startsWith("ai_protocol_manager")`,
		kind: "invalid_request_error", anthropicKind: "invalid_request_error", status: http.StatusBadRequest, code: "invalid_json",
		message: "The request body is not valid JSON, or is nested deeper than 16 levels, or names a field twice.",
	},
	{
		when: `response.code_details == "rate_limiter_error"`,
		kind: "service_unavailable", anthropicKind: "overloaded_error", status: http.StatusServiceUnavailable, code: "rate_limiter_unavailable",
		message: "Rate limiting is unavailable. Please retry after 2 seconds.", retryAfter: 2,
	},
	{
		when: `response.code_details.startsWith("upstream_reset_before_response_started") || response.code_details == "no_healthy_upstream" || ` +
			`response.code_details == "direct_response" && response.code == 503 || response.code_details == "failed_to_inject_credential"`,
		kind: "service_unavailable", anthropicKind: "overloaded_error", status: http.StatusServiceUnavailable, code: "provider_unavailable",
		message: "The provider cannot be reached. Please retry after 2 seconds.", retryAfter: 2,
	},
	{
		when: `response.code == 504 && response.code_details == "stream_idle_timeout"`,
		kind: "timeout_error", anthropicKind: "timeout_error", status: http.StatusGatewayTimeout, code: "provider_timeout",
		message: "The provider did not answer in time. Ask for a stream if answers take long.",
	},
	{
		// The client's own doing: a body that comes too slowly, or not at all.
		when: `response.code == 408`,
		kind: "invalid_request_error", anthropicKind: "invalid_request_error", status: http.StatusRequestTimeout, code: "request_timeout",
		message: "The request did not arrive in time.",
	},
	{
		when: `response.code_details == "route_not_found" || response.code_details == "direct_response" && response.code == 404`,
		kind: "invalid_request_error", status: http.StatusNotFound, code: "unknown_url",
		message: "This gateway serves no such path and method.",
	},
}

// localReplies gives denials of the service their status, and what Envoy answers by itself the shape of the route's
// protocol. The first mapper that matches wins.
func localReplies() *hcmv3.LocalReplyConfig {
	c := &hcmv3.LocalReplyConfig{}
	for _, status := range descriptor.DenyStatuses {
		exactly := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Exact{Exact: strconv.Itoa(status)},
		}}}
		c.Mappers = append(c.Mappers, &hcmv3.ResponseMapper{
			Filter:     metadataFilter(descriptor.MetadataDenyStatus, exactly),
			StatusCode: wrapperspb.UInt32(uint32(status)), //nolint:gosec // A status of our own table.
		})
	}
	for _, r := range ownReplies {
		if r.anthropicKind != "" {
			c.Mappers = append(c.Mappers,
				ownReply("("+r.when+") && "+isProtocol(descriptor.ProtocolAnthropic), r.status, r.retryAfter, map[string]any{
					"type": "error", "error": map[string]any{"type": r.anthropicKind, "message": r.message},
				}),
				ownReply("("+r.when+") && "+isProtocol(descriptor.ProtocolGemini), r.status, r.retryAfter, map[string]any{
					"error": map[string]any{"code": r.status, "message": r.message, "status": descriptor.GoogleStatuses[r.status]},
				}))
		}
		c.Mappers = append(c.Mappers, ownReply(r.when, r.status, r.retryAfter, map[string]any{
			"error": map[string]any{"type": r.kind, "message": r.message, "code": r.code},
		}))
	}
	return c
}

func isProtocol(p descriptor.Protocol) string {
	return fmt.Sprintf(`xds.route_metadata.filter_metadata[%q][%q] == %q`, descriptor.MetadataRoute, descriptor.KeyProtocol, p)
}

// ownReply gives the answer its status too: Envoy's own may be another, such as 502 where a provider answers nonsense.
func ownReply(expression string, status, retryAfter int, body map[string]any) *hcmv3.ResponseMapper {
	json, err := structpb.NewStruct(body)
	if err != nil {
		panic(err) // The bodies are the constants above.
	}
	m := &hcmv3.ResponseMapper{
		Filter:             when(expression),
		StatusCode:         wrapperspb.UInt32(uint32(status)), //nolint:gosec // A status of our own table.
		BodyFormatOverride: &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: json}},
	}
	if retryAfter > 0 {
		m.HeadersToAdd = []*corev3.HeaderValueOption{overwrite("retry-after", strconv.Itoa(retryAfter))}
	}
	return m
}

func overwrite(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}
