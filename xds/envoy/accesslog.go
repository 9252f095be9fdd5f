package envoy

import (
	"fmt"
	"net/http"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslog_datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	cel_filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	grpc_logv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

const (
	logFlush  = time.Second // so an entry can reach the service after the settle of its lease
	logBuffer = 16 << 10    // bytes
)

// accessLogs sends the service an entry for each running request that has a lease, every heartbeat, one for each request whose
// backend could not be reached, and, where the gateway protects itself, one for each that Envoy refused without asking.
func accessLogs(g *policy.Gateway) []*accesslogv3.AccessLog {
	running := allOf(
		ofType(accesslog_datav3.AccessLogType_DownstreamPeriodic),
		metadataFilter(descriptor.KeyLease, &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{PresentMatch: true}}),
	)
	entries := []*accesslogv3.AccessLogFilter{running, flagged("UF")}
	if g.Abuse != nil {
		entries = append(entries, refusedUnasked())
	}
	return []*accesslogv3.AccessLog{{
		Name:   "envoy.access_loggers.http_grpc",
		Filter: anyOf(entries...),
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: packed(&grpc_logv3.HttpGrpcAccessLogConfig{
			CommonConfig: &grpc_logv3.CommonGrpcAccessLogConfig{
				LogName:             "tierkeeper",
				TransportApiVersion: corev3.ApiVersion_V3,
				GrpcService:         grpcService(ServiceCluster),
				BufferFlushInterval: durationpb.New(logFlush),
				BufferSizeBytes:     wrapperspb.UInt32(logBuffer),
			},
		})},
	}}
}

// refusedUnasked matches what no settle and no denial tells the service: broken JSON, a body too large, no route. A service that
// cannot be asked is not the client's failure, nor is what a provider answers where nothing is metered.
func refusedUnasked() *accesslogv3.AccessLogFilter {
	return allOf(
		ofType(accesslog_datav3.AccessLogType_DownstreamEnd),
		&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
			Comparison: &accesslogv3.ComparisonFilter{
				Op:    accesslogv3.ComparisonFilter_GE,
				Value: &corev3.RuntimeUInt32{DefaultValue: http.StatusBadRequest, RuntimeKey: "tierkeeper.failure_from_status"},
			},
		}}},
		without(descriptor.KeyLease),
		without(descriptor.MetadataDenyStatus),
		anyOf(
			flagged("NR"), // There is no route whose metadata could be asked for.
			when(fmt.Sprintf(`!(%q in xds.route_metadata.filter_metadata[%q]) && request.method != "OPTIONS" && response.code_details != "rate_limiter_error"`,
				descriptor.KeyUnmetered, descriptor.MetadataRoute)),
		),
	)
}

func allOf(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: &accesslogv3.AndFilter{Filters: filters}}}
}

func anyOf(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{OrFilter: &accesslogv3.OrFilter{Filters: filters}}}
}

func ofType(t accesslog_datav3.AccessLogType) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_LogTypeFilter{LogTypeFilter: &accesslogv3.LogTypeFilter{
		Types: []accesslog_datav3.AccessLogType{t},
	}}}
}

func flagged(flag string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{flag}},
	}}
}

// when matches by a CEL expression. One that cannot be evaluated does not match.
func when(expression string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{
		ExtensionFilter: &accesslogv3.ExtensionFilter{
			Name:       "envoy.access_loggers.extension_filters.cel",
			ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: packed(&cel_filterv3.ExpressionFilter{Expression: expression})},
		},
	}}
}

// without matches requests of which the service answered nothing under the key. That a value must not be there is written as
// one that never is there, and a match where there is none: to invert the matcher has no effect in this filter.
func without(key string) *accesslogv3.AccessLogFilter {
	f := metadataFilter(key, &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
		MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "-"},
	}}})
	f.GetMetadataFilter().MatchIfKeyNotFound = wrapperspb.Bool(true)
	return f
}

// metadataFilter matches requests by what the service answered.
func metadataFilter(key string, value *matcherv3.ValueMatcher) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{MetadataFilter: &accesslogv3.MetadataFilter{
		Matcher: &matcherv3.MetadataMatcher{
			Filter: descriptor.MetadataService,
			Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}}},
			Value:  value,
		},
		MatchIfKeyNotFound: wrapperspb.Bool(false),
	}}}
}
