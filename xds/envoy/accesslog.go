package envoy

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslog_datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	grpc_logv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

const (
	logFlush  = time.Second // so an entry can reach the service after the settle of its lease
	logBuffer = 16 << 10    // bytes
)

// accessLogs sends the service an entry for each running request that has a lease, every heartbeat, and one for each request
// whose backend could not be reached.
func accessLogs() []*accesslogv3.AccessLog {
	running := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: &accesslogv3.AndFilter{
		Filters: []*accesslogv3.AccessLogFilter{
			{FilterSpecifier: &accesslogv3.AccessLogFilter_LogTypeFilter{LogTypeFilter: &accesslogv3.LogTypeFilter{
				Types: []accesslog_datav3.AccessLogType{accesslog_datav3.AccessLogType_DownstreamPeriodic},
			}}},
			metadataFilter(descriptor.KeyLease, &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{PresentMatch: true}}),
		},
	}}}
	unreachable := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"UF"}},
	}}
	return []*accesslogv3.AccessLog{{
		Name: "envoy.access_loggers.http_grpc",
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{OrFilter: &accesslogv3.OrFilter{
			Filters: []*accesslogv3.AccessLogFilter{running, unreachable},
		}}},
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
