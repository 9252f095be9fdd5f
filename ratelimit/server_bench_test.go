package ratelimit_test

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// bytesOnly sends and receives bytes, so that little of what is measured is the client's.
type bytesOnly struct{}

func (bytesOnly) Name() string { return "proto" }

func (bytesOnly) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil //nolint:forcetypeassert // It is given nothing else.
}

func (bytesOnly) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = append((*v.(*[]byte))[:0], data.Materialize()...) //nolint:forcetypeassert // As above.
	return nil
}

// BenchmarkServer is a whole call over loopback: a reserve with six rates and a slot, or its settle. What it allocates is both
// the server's and the client's; an empty call shows the share of grpc-go.
func BenchmarkServer(b *testing.B) {
	empty := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), descriptor.Domain)
	for _, bench := range []struct {
		name string
		call func(l *load, i int) []byte
	}{
		{"empty", func(*load, int) []byte { return empty }},
		{"reserve", func(_ *load, i int) []byte { return reserveOf(i) }},
		{"settle", func(l *load, i int) []byte { return settleOf(l.reserve(b, i).Lease) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			l := newLoad(b, "gpt-5")
			conn := listen(b, l.Limiter, slog.New(slog.DiscardHandler))
			written := make([][]byte, min(b.N, 200_000))
			for i := range written {
				written[i] = bench.call(l, i)
			}
			var next atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(16)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				var answer []byte
				for pb.Next() {
					i := int(next.Add(1)) % len(written)
					if err := conn.Invoke(b.Context(), rlsv3.RateLimitService_ShouldRateLimit_FullMethodName, written[i], &answer, grpc.ForceCodecV2(bytesOnly{})); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func reserveOf(i int) []byte {
	return written(descriptor.KeyPhase, descriptor.PhaseReserve, descriptor.KeyHeader+"authorization", fmt.Sprintf("Bearer sk-%d", i%benchKeys),
		descriptor.KeyHeader+"x-api-key", "", descriptor.KeyClient, "192.0.2.1", descriptor.KeyGateway, gatewayName, descriptor.KeyResource, "chat",
		descriptor.KeyProtocol, string(descriptor.ProtocolOpenAIChat), descriptor.KeyModel, "gpt-5", descriptor.KeyMaxOutput, "500",
		descriptor.KeyInputBytes, "2000", descriptor.KeyStream, "true")
}

func settleOf(lease string) []byte {
	return written(descriptor.KeyPhase, descriptor.PhaseSettle, descriptor.KeyLease, lease, descriptor.KeyCode, "200",
		descriptor.KeyOutputBytes, "900", descriptor.KeyResponseType, "text/event-stream", descriptor.KeyInputTokens, "480",
		descriptor.KeyOutputTokens, "210", descriptor.KeyCachedTokens, "", descriptor.KeyThoughts, "")
}
