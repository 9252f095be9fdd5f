package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// AccessLog takes Envoy's log entries as signs of life: Envoy sends one for each running request every 10 seconds. It
// settles nothing, so nothing is counted twice. Envoy sends one, too, for each request whose backend it could not reach, by
// which the operator learns why.
type AccessLog struct {
	alsv3.UnimplementedAccessLogServiceServer

	limiter *Limiter
	log     *slog.Logger

	mu   sync.Mutex
	told map[failure]time.Time
}

// A failure is a reason why a backend could not be reached.
type failure struct{ cluster, reason string }

const (
	tellEvery = time.Minute // how often the same failure is told
	maxTold   = 1000        // failures that are told apart
)

// NewAccessLog puts the limiter behind the access log protocol.
func NewAccessLog(l *Limiter, log *slog.Logger) *AccessLog {
	return &AccessLog{limiter: l, log: log, told: map[failure]time.Time{}}
}

// StreamAccessLogs reads entries until Envoy ends the stream.
func (a *AccessLog) StreamAccessLogs(stream alsv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&alsv3.StreamAccessLogsResponse{})
		}
		if err != nil {
			return fmt.Errorf("reading access log entries: %w", err)
		}
		for _, entry := range message.GetHttpLogs().GetLogEntry() {
			common := entry.GetCommonProperties()
			if common.GetResponseFlags().GetUpstreamConnectionFailure() {
				a.unreachable(stream.Context(), failure{common.GetUpstreamCluster(), common.GetUpstreamTransportFailureReason()})
				continue
			}
			metadata := common.GetMetadata().GetFilterMetadata()[descriptor.MetadataService]
			lease := metadata.GetFields()[descriptor.KeyLease].GetStringValue()
			if lease == "" {
				continue
			}
			if err := a.limiter.Renew(stream.Context(), lease); err != nil {
				a.limiter.complain(stream.Context(), a.log, "dropped a sign of life", err)
			}
		}
	}
}

// unreachable tells of a backend what Envoy says of it: nothing else of the entry, whose path may hold a key.
func (a *AccessLog) unreachable(ctx context.Context, f failure) {
	now := a.limiter.clock()
	a.mu.Lock()
	last, known := a.told[f]
	soon := known && now.Before(last.Add(tellEvery))
	if !soon {
		if len(a.told) >= maxTold {
			clear(a.told)
		}
		a.told[f] = now
	}
	a.mu.Unlock()
	if !soon {
		a.log.WarnContext(ctx, "a backend cannot be reached", "backend", f.cluster, "reason", f.reason)
	}
}
