// Package calls decides what the calls are with which rate-limit services are measured: what Envoy sends for a chat request, and
// what costs another service as many limits.
package calls

import (
	"encoding/binary"
	"fmt"
	"strconv"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/test/bench/load"
)

// Gateway and Model are those of every reserve.
const (
	Gateway = "team/edge"
	Model   = "gpt-5-mini"
)

// PeerDomain is the domain of calls that are not Tierkeeper's.
const PeerDomain = "bench"

// APIKey is the i-th of a kind. It is as long as a real one.
func APIKey(kind string, i int) string {
	return fmt.Sprintf("sk-proj-%s-%08x%08x%08d", kind, i*40503, i*7919, i)
}

// Reserve is what Envoy sends for a chat request with an API key. Clients and sizes differ by i.
func Reserve(key string, i int) *rlsv3.RateLimitRequest {
	return request(descriptor.Domain, entries([][2]string{
		{descriptor.KeyPhase, descriptor.PhaseReserve},
		{descriptor.KeyHeader + "authorization", "Bearer " + key},
		{descriptor.KeyHeader + "x-api-key", ""},
		{descriptor.KeyClient, fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255)},
		{descriptor.KeyGateway, Gateway},
		{descriptor.KeyResource, "chat"},
		{descriptor.KeyProtocol, string(descriptor.ProtocolOpenAIChat)},
		{descriptor.KeyModel, Model},
		{descriptor.KeyMaxOutput, "1024"},
		{descriptor.KeyInputBytes, strconv.Itoa(1733 + i)},
		{descriptor.KeyStream, "true"},
	}))
}

// settled is what Envoy tells at the end of a stream, but for the lease.
var settled = entries([][2]string{
	{descriptor.KeyPhase, descriptor.PhaseSettle},
	{descriptor.KeyCode, "200"},
	{descriptor.KeyOutputBytes, "5210"},
	{descriptor.KeyResponseType, "text/event-stream"},
	{descriptor.KeyInputTokens, "412"},
	{descriptor.KeyOutputTokens, "380"},
})

// Settle is what Envoy sends when the stream of a reserve has ended.
func Settle(lease string) *rlsv3.RateLimitRequest {
	return request(descriptor.Domain, append(entries([][2]string{{descriptor.KeyLease, lease}}), settled...))
}

// Descriptors asks for one limit by each descriptor: of a subject of a kind, which the service is configured to know by its name
// and the number of the limit.
func Descriptors(kind, subject string, limits int) *rlsv3.RateLimitRequest {
	r := &rlsv3.RateLimitRequest{Domain: PeerDomain}
	for i := range limits {
		r.Descriptors = append(r.Descriptors, &commonv3.RateLimitDescriptor{Entries: entries([][2]string{{DescriptorKey(kind, i), subject}})})
	}
	return r
}

// DescriptorKey is the key of the i-th limit of a kind.
func DescriptorKey(kind string, i int) string { return fmt.Sprintf("%s_%d", kind, i) }

func request(domain string, all []*commonv3.RateLimitDescriptor_Entry) *rlsv3.RateLimitRequest {
	return &rlsv3.RateLimitRequest{Domain: domain, Descriptors: []*commonv3.RateLimitDescriptor{{Entries: all}}}
}

func entries(pairs [][2]string) []*commonv3.RateLimitDescriptor_Entry {
	var all []*commonv3.RateLimitDescriptor_Entry
	for _, p := range pairs {
		all = append(all, &commonv3.RateLimitDescriptor_Entry{Key: p[0], Value: p[1]})
	}
	return all
}

// prefixSize is that of what gRPC puts before a message: whether it is compressed, and its length.
const prefixSize = 5

// GRPC makes a call of a message.
func GRPC(m *rlsv3.RateLimitRequest) (load.Call, error) {
	body, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, prefixSize), m)
	if err != nil {
		return load.Call{}, fmt.Errorf("encoding a call: %w", err)
	}
	binary.BigEndian.PutUint32(body[1:], uint32(len(body)-prefixSize)) //nolint:gosec // A call is small.
	return load.Call{Header: header, Body: body}, nil
}

var header = []hpack.HeaderField{
	{Name: ":method", Value: "POST"},
	{Name: ":scheme", Value: "http"},
	{Name: ":path", Value: rlsv3.RateLimitService_ShouldRateLimit_FullMethodName},
	{Name: ":authority", Value: "ratelimit"},
	{Name: "te", Value: "trailers"},
	{Name: "content-type", Value: "application/grpc"},
	{Name: "grpc-timeout", Value: "10S"}, // as Envoy, but longer: what is slow is to be measured,
}

// Numbers of fields of an answer.
const (
	answerCode     = 1
	answerMetadata = 6
)

// Read says what the answer to a call means.
func Read(a *load.Answer) (load.Outcome, *load.Call) {
	outcome, _ := read(a)
	return outcome, nil
}

// ReadAndSettle says what the answer to a reserve means, and settles what was reserved.
func ReadAndSettle(a *load.Answer) (load.Outcome, *load.Call) {
	outcome, metadata := read(a)
	if outcome != load.Admitted || metadata == nil {
		return outcome, nil
	}
	var facts structpb.Struct
	if proto.Unmarshal(metadata, &facts) != nil {
		return load.Failed, nil
	}
	settle, err := GRPC(Settle(facts.GetFields()[descriptor.KeyLease].GetStringValue()))
	if err != nil {
		return load.Failed, nil
	}
	return outcome, &settle
}

// read looks into an answer for as much as is needed, because the time for that is taken from the server's.
func read(a *load.Answer) (outcome load.Outcome, metadata []byte) {
	if a.GRPCStatus != "0" || len(a.Body) < prefixSize {
		return load.Failed, nil
	}
	code := rlsv3.RateLimitResponse_UNKNOWN
	for message := a.Body[prefixSize:]; len(message) > 0; {
		number, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return load.Failed, nil
		}
		message = message[size:]
		switch {
		case number == answerCode && kind == protowire.VarintType:
			n, _ := protowire.ConsumeVarint(message)
			code = rlsv3.RateLimitResponse_Code(n) //nolint:gosec // What is no code is none of those that are asked for.
		case number == answerMetadata && kind == protowire.BytesType:
			metadata, _ = protowire.ConsumeBytes(message)
		}
		if size = protowire.ConsumeFieldValue(number, kind, message); size < 0 {
			return load.Failed, nil
		}
		message = message[size:]
	}
	switch code {
	case rlsv3.RateLimitResponse_OK:
		return load.Admitted, metadata
	case rlsv3.RateLimitResponse_OVER_LIMIT:
		return load.Refused, metadata
	default:
		return load.Failed, nil
	}
}
