package ratelimit_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
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
		{"reserve", func(_ *load, i int) []byte { return reserveOf(new(callWriter), keyOf(i)) }},
		{"settle", func(l *load, i int) []byte { return settleOf(new(callWriter), l.reserve(b, i).Lease) }},
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

// keyOf is the API key of number i.
func keyOf(i int) string { return fmt.Sprintf("Bearer sk-%d", i%benchKeys) }

func reserveOf(w *callWriter, key string) []byte {
	return w.write(descriptor.KeyPhase, descriptor.PhaseReserve, descriptor.KeyHeader+"authorization", key,
		descriptor.KeyHeader+"x-api-key", "", descriptor.KeyClient, "192.0.2.1", descriptor.KeyGateway, gatewayName, descriptor.KeyResource, "chat",
		descriptor.KeyProtocol, string(descriptor.ProtocolOpenAIChat), descriptor.KeyModel, "gpt-5", descriptor.KeyMaxOutput, "500",
		descriptor.KeyInputBytes, "2000", descriptor.KeyStream, "true")
}

func settleOf(w *callWriter, lease string) []byte {
	return w.write(descriptor.KeyPhase, descriptor.PhaseSettle, descriptor.KeyLease, lease, descriptor.KeyCode, "200",
		descriptor.KeyOutputBytes, "900", descriptor.KeyResponseType, "text/event-stream", descriptor.KeyInputTokens, "480",
		descriptor.KeyOutputTokens, "210", descriptor.KeyCachedTokens, "", descriptor.KeyThoughts, "")
}

// inFlight is how many requests are under way in BenchmarkCalls.
const inFlight = 256

// BenchmarkCalls is all that the service does for a request beside gRPC: it reads a reserve, decides, and writes the answer, and
// later takes the settle. Keys send at random. Run it with GOMAXPROCS=1, or the garbage collector works beside it.
func BenchmarkCalls(b *testing.B) {
	keys := make([]string, benchKeys)
	for i := range keys {
		keys[i] = keyOf(i)
	}
	for _, bench := range []struct{ name, more string }{
		{"usual", ""}, {"protected", protected}, {"IETF", speaking("{type: IETF}")}, {"Anthropic", speaking("{type: Anthropic}")},
	} {
		b.Run(bench.name, func(b *testing.B) {
			l, handler := newLoad(b, "gpt-5", bench.more), ratelimit.NewHandler()
			random, w := rand.New(rand.NewPCG(1, 2)), &callWriter{}
			take := func(call []byte) []byte {
				answer, err := handler.Answer(b.Context(), l.Limiter, call)
				if err != nil {
					b.Fatal(err)
				}
				return answer
			}
			var leases [inFlight]string
			var reserving time.Duration
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%inFlight > 0 {
					continue // It was among those before.
				}
				began := b.Elapsed()
				for j := range leases {
					leases[j] = leaseIn(take(reserveOf(w, keys[random.IntN(benchKeys)])))
				}
				reserving += b.Elapsed() - began
				for _, lease := range leases {
					take(settleOf(w, lease))
				}
			}
			b.ReportMetric(float64(reserving.Nanoseconds())/float64(b.N), "reserve-ns/op")
			b.ReportMetric(float64((b.Elapsed()-reserving).Nanoseconds())/float64(b.N), "settle-ns/op")
		})
	}
}

// leaseField begins the field that holds the lease.
var leaseField = protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), descriptor.KeyLease)

// leaseIn is what an answer that lets a request pass ends with.
func leaseIn(answer []byte) string {
	_, lease, _ := bytes.Cut(answer, leaseField)
	for range 2 { // a value is a message with text
		lease, _ = protowire.ConsumeBytes(lease[1:])
	}
	return string(lease)
}
