package ratelimit_test

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// written is a call with one descriptor as Envoy writes it: the values are any bytes. Keys and values take turns.
func written(entries ...string) []byte { return new(callWriter).write(entries...) }

// A callWriter writes calls into room that it uses again.
type callWriter struct{ entry, descriptor, call []byte }

func (w *callWriter) write(entries ...string) []byte {
	field := func(to []byte, number protowire.Number, content []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), content)
	}
	text := func(to []byte, number protowire.Number, content string) []byte {
		return protowire.AppendString(protowire.AppendTag(to, number, protowire.BytesType), content)
	}
	w.descriptor = w.descriptor[:0]
	for pair := range slices.Chunk(entries, 2) {
		w.entry = text(text(w.entry[:0], 1, pair[0]), 2, pair[1])
		w.descriptor = field(w.descriptor, 1, w.entry)
	}
	w.call = field(text(w.call[:0], 1, descriptor.Domain), 2, w.descriptor)
	return w.call
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

// generated is what generated code reads, each part of a message after the other.
func generated(b []byte) (descriptors [][]descriptor.Entry, err error) {
	var call rlsv3.RateLimitRequest
	if err := proto.Unmarshal(b, &call); err != nil {
		return nil, err
	}
	for _, d := range call.GetDescriptors() {
		entries := []descriptor.Entry{}
		for _, e := range d.GetEntries() {
			entries = append(entries, descriptor.Entry{Key: e.GetKey(), Value: e.GetValue()})
		}
		descriptors = append(descriptors, entries)
	}
	return descriptors, nil
}

// FuzzCodec reads a call with any value, and any bytes as a call: what generated code takes is taken, and says the same.
func FuzzCodec(f *testing.F) {
	for _, seed := range []string{"", "sk-1", "\xff", "sk-\u00e4\xffb\xc3", "\xed\xa0\x80", "\x12\x06\x0a\x04\x12\x02a\xff", "\x12\xff"} {
		f.Add([]byte(seed))
	}
	f.Add(written("phase", "reserve", "model", "gpt-5"))
	f.Add(append(written("a", "b", "c", ""), written("d", "e")...))
	f.Add([]byte("\x18\x01\x12\x00\x12\x07\x20\x01\x0a\x03\x0a\x01k\x12\x08\x0a\x06\x12\x01v\x12\x01w\x23\x08\x01\x24"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ratelimit.Unmarshal(written("key", string(b)))
		if diff := cmp.Diff([][]descriptor.Entry{{{Key: "key", Value: strings.ToValidUTF8(string(b), "?")}}}, got); err != nil || diff != "" {
			t.Errorf("a call with the value %q, error %v (-want +got):\n%s", b, err, diff)
		}
		got, err = ratelimit.Unmarshal(b[:len(b)/2], b[len(b)/2:])
		want, failed := generated(b)
		if failed != nil {
			return // What else is taken is of no matter.
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("the call %x, error %v (-want +got):\n%s", b, err, diff)
		}
	})
}

// FuzzAnswer writes any answer, and generated code reads what is meant.
func FuzzAnswer(f *testing.F) {
	f.Add(0, "AbC-_", "x-ratelimit-limit-requests", "3", 2, "", "", 1)
	f.Add(429, "", "Retry-After", "12", 3, `{"error":{}}`, "", 1)
	f.Add(0, "", "", "", 0, "", "dedicated", 300)
	f.Fuzz(func(t *testing.T, status int, lease, name, value string, headers int, body, pool string, descriptors int) {
		text := func(s string) string { return strings.ToValidUTF8(s, "?") } // as ours is
		d := ratelimit.Decision{Status: status, Lease: text(lease), Body: text(body), Pool: text(pool)}
		for range headers % 20 {
			d.AddHeader(text(name), text(value))
		}
		descriptors %= 100
		got := &rlsv3.RateLimitResponse{}
		if err := proto.Unmarshal(ratelimit.Marshal(d, descriptors), got); err != nil {
			t.Fatalf("%+v: %v", d, err)
		}
		if diff := cmp.Diff(meant(d, descriptors), got, protocmp.Transform()); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", d, diff)
		}
	})
}

// meant is the answer that a decision is.
func meant(d ratelimit.Decision, descriptors int) *rlsv3.RateLimitResponse {
	answer := &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}
	for _, h := range d.Headers() {
		answer.ResponseHeadersToAdd = append(answer.ResponseHeadersToAdd, &corev3.HeaderValue{Key: h.Name, Value: h.Value})
	}
	if d.Pool != "" {
		answer.RequestHeadersToAdd = append(answer.RequestHeadersToAdd, &corev3.HeaderValue{Key: descriptor.HeaderPool, Value: d.Pool})
	}
	metadata := func(key, value string) *structpb.Struct {
		return &structpb.Struct{Fields: map[string]*structpb.Value{key: structpb.NewStringValue(value)}}
	}
	switch {
	case d.Status != 0:
		answer.OverallCode, answer.RawBody = rlsv3.RateLimitResponse_OVER_LIMIT, []byte(d.Body)
		answer.ResponseHeadersToAdd = append(answer.ResponseHeadersToAdd, &corev3.HeaderValue{Key: "content-type", Value: "application/json"})
		answer.DynamicMetadata = metadata(descriptor.MetadataDenyStatus, strconv.Itoa(d.Status))
	case d.Lease != "":
		answer.DynamicMetadata = metadata(descriptor.KeyLease, d.Lease)
	}
	for range descriptors {
		answer.Statuses = append(answer.Statuses, &rlsv3.RateLimitResponse_DescriptorStatus{Code: answer.OverallCode})
	}
	return answer
}
