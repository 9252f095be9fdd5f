package ratelimit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// AccessLog takes Envoy's log entries as signs of life: Envoy sends one for each running request every 10 seconds. It
// settles nothing, so nothing is counted twice.
type AccessLog struct {
	alsv3.UnimplementedAccessLogServiceServer

	limiter *Limiter
	log     *slog.Logger
}

// NewAccessLog puts the limiter behind the access log protocol.
func NewAccessLog(l *Limiter, log *slog.Logger) *AccessLog { return &AccessLog{limiter: l, log: log} }

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
			metadata := entry.GetCommonProperties().GetMetadata().GetFilterMetadata()[descriptor.MetadataService]
			lease := metadata.GetFields()[descriptor.KeyLease].GetStringValue()
			if lease == "" {
				continue
			}
			if err := a.limiter.Renew(stream.Context(), lease); err != nil {
				a.log.WarnContext(stream.Context(), "dropped a sign of life", "error", err)
			}
		}
	}
}
