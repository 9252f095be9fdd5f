package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	access_logv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// An accessLog takes Envoy's log entries as signs of life: Envoy sends one for each running request every 10 seconds. It
// settles nothing, so nothing is counted twice. Envoy sends one, too, for each request whose backend it could not reach, by
// which the operator learns why, and from gateways that protect themselves one for each that it refused without asking.
type accessLog struct {
	alsv3.UnimplementedAccessLogServiceServer

	limiter *Limiter
	log     *slog.Logger
	told    sparing[failure]
}

// A failure is a reason why a backend could not be reached.
type failure struct{ cluster, reason string }

// StreamAccessLogs implements alsv3.AccessLogServiceServer: it reads entries until Envoy ends the stream.
func (a *accessLog) StreamAccessLogs(stream alsv3.AccessLogService_StreamAccessLogsServer) error {
	var gateway string // is told once
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&alsv3.StreamAccessLogsResponse{})
		}
		if err != nil {
			return fmt.Errorf("reading access log entries: %w", err)
		}
		// An Envoy's cluster is the name of its gateway.
		gateway = cmp.Or(message.GetIdentifier().GetNode().GetCluster(), gateway)
		for _, entry := range message.GetHttpLogs().GetLogEntry() {
			a.take(stream.Context(), gateway, entry)
		}
	}
}

func (a *accessLog) take(ctx context.Context, gateway string, entry *access_logv3.HTTPAccessLogEntry) {
	common := entry.GetCommonProperties()
	service := common.GetMetadata().GetFilterMetadata()[descriptor.MetadataService].GetFields()
	lease := service[descriptor.KeyLease].GetStringValue()
	switch {
	case common.GetResponseFlags().GetUpstreamConnectionFailure():
		a.unreachable(ctx, failure{common.GetUpstreamCluster(), common.GetUpstreamTransportFailureReason()})
	case lease != "":
		if err := a.limiter.Renew(ctx, lease); err != nil {
			a.limiter.complain(ctx, a.log, "dropped a sign of life", err)
		}
	// What has been denied was counted when it was, and a request that goes on has no answer yet.
	case service[descriptor.MetadataDenyStatus] == nil && common.GetAccessLogType() == access_logv3.AccessLogType_DownstreamEnd:
		a.limiter.answeredByEnvoy(ctx, gateway, common.GetDownstreamRemoteAddress().GetSocketAddress().GetAddress(),
			int(entry.GetResponse().GetResponseCode().GetValue()))
	}
}

// unreachable tells of a backend what Envoy says of it: nothing else of the entry, whose path may hold a key.
func (a *accessLog) unreachable(ctx context.Context, f failure) {
	if a.told.tell(f, a.limiter.clock()) {
		a.log.WarnContext(ctx, "a backend cannot be reached", "backend", f.cluster, "reason", f.reason)
	}
}
