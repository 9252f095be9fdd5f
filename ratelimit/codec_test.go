package ratelimit_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// written is a call with one descriptor as Envoy writes it: the values are any bytes. Keys and values take turns.
func written(entries ...string) []byte {
	field := func(to []byte, number protowire.Number, content []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), content)
	}
	var d []byte
	for pair := range slices.Chunk(entries, 2) {
		d = field(d, 1, field(field(nil, 1, []byte(pair[0])), 2, []byte(pair[1])))
	}
	return field(field(nil, 1, []byte(descriptor.Domain)), 2, d)
}

// asWritten sends bytes and reads messages.
type asWritten struct{ encoding.CodecV2 }

func (asWritten) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil //nolint:forcetypeassert // It is given nothing else.
}

func callAsWritten(ctx context.Context, t *testing.T, conn *grpc.ClientConn, entries ...string) wire {
	t.Helper()
	answer := &rlsv3.RateLimitResponse{}
	err := conn.Invoke(ctx, rlsv3.RateLimitService_ShouldRateLimit_FullMethodName, written(entries...), answer,
		grpc.ForceCodecV2(asWritten{encoding.GetCodecV2("proto")}))
	if err != nil {
		t.Fatalf("calling: %v", err)
	}
	return read(answer)
}

// Envoy hands on what clients write into headers byte for byte, and protocol buffers know no text but UTF-8.
func TestBytesThatAreNoTextMakeNoCallFail(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{rates: [{metric: Tokens, per: Minute, max: 100}], concurrency: {max: 2}}"))
	conn := listen(t, s.Limiter, everything(&lockedBuffer{}))
	ask := func(entries ...string) wire {
		return callAsWritten(t.Context(), t, conn, append([]string{
			descriptor.KeyPhase, descriptor.PhaseReserve, descriptor.KeyGateway, gatewayName,
			descriptor.KeyProtocol, string(descriptor.ProtocolOpenAIChat), descriptor.KeyModel, "gpt-5",
		}, entries...)...)
	}
	for name, place := range map[string]string{"a header": descriptor.KeyHeader + "x-api-key", "a parameter": descriptor.KeyQuery + "key"} {
		if got := ask(place, "sk-\xff"); got.Metadata["deny_status"] != "401" || !strings.Contains(got.Body, "invalid_api_key") {
			t.Errorf("a key in %s is answered %+v, want 401", name, got)
		}
	}
	lease, _ := ask(descriptor.KeyHeader+"x-api-key", "sk-alice", "new", "\xff").Metadata[descriptor.KeyLease].(string)
	callAsWritten(t.Context(), t, conn, descriptor.KeyPhase, descriptor.PhaseSettle, descriptor.KeyLease, lease,
		descriptor.KeyCode, "200", descriptor.KeyOutputTokens, "7", descriptor.KeyResponseType, "text/\xff")
	want := map[string]int64{"Key Tokens per Minute": 7, "Key ConcurrentRequests": 0}
	if diff := cmp.Diff(want, s.used(t, chat("sk-alice"))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

// FuzzCodec reads a call with any value, and any bytes as a call.
func FuzzCodec(f *testing.F) {
	for _, seed := range []string{"", "sk-1", "\xff", "sk-\u00e4\xffb\xc3", "\xed\xa0\x80", "\x12\x06\x0a\x04\x12\x02a\xff", "\x12\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		var call rlsv3.RateLimitRequest
		if err := ratelimit.Unmarshal(written("key", string(value)), &call); err != nil {
			t.Fatalf("a call with the value %q: %v", value, err)
		}
		var want strings.Builder
		for i, r := range string(value) {
			if r == '\ufffd' && !strings.HasPrefix(string(value[i:]), "\ufffd") {
				r = '?'
			}
			want.WriteRune(r)
		}
		if got := call.GetDescriptors()[0].GetEntries()[0].GetValue(); got != want.String() {
			t.Errorf("%q was read as %q, want %q", value, got, want.String())
		}
		_ = ratelimit.Unmarshal(value, &call) // may fail, and does not panic
	})
}
