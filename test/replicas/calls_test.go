package replicas_test

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// general is the model of requests to which it does not matter.
const general = "general"

// A request is what Envoy asks about.
type request struct {
	holder, model string
	tokens        int // of output, at most
}

func (r request) descriptor() *commonv3.RateLimitDescriptor {
	return described(
		descriptor.KeyPhase, descriptor.PhaseReserve,
		descriptor.KeyHeader+"authorization", "Bearer "+keyOf(r.holder),
		descriptor.KeyClient, "192.0.2.1",
		descriptor.KeyGateway, tenant+"/edge",
		descriptor.KeyResource, "chat",
		descriptor.KeyProtocol, string(descriptor.ProtocolOpenAIChat),
		descriptor.KeyModel, r.model,
		descriptor.KeyMaxOutput, strconv.Itoa(r.tokens),
		descriptor.KeyStream, "true")
}

// settling is the descriptor that Envoy sends when a stream has ended that cost so many tokens.
func settling(lease string, tokens int) *commonv3.RateLimitDescriptor {
	return described(
		descriptor.KeyPhase, descriptor.PhaseSettle,
		descriptor.KeyLease, lease,
		descriptor.KeyCode, "200",
		descriptor.KeyOutputTokens, strconv.Itoa(tokens))
}

// described is a descriptor of keys and values in turn.
func described(pairs ...string) *commonv3.RateLimitDescriptor {
	d := &commonv3.RateLimitDescriptor{}
	for pair := range slices.Chunk(pairs, 2) {
		d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: pair[0], Value: pair[len(pair)-1]})
	}
	return d
}

func (r *replica) call(ctx context.Context, d *commonv3.RateLimitDescriptor) (*rlsv3.RateLimitResponse, error) {
	return r.rls.ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{Domain: descriptor.Domain, Descriptors: []*commonv3.RateLimitDescriptor{d}})
}

// reserve asks about a request. Without a lease it was refused.
func (r *replica) reserve(t *testing.T, q request) (lease string, ok bool) {
	t.Helper()
	answer, err := r.call(t.Context(), q.descriptor())
	if err != nil {
		t.Errorf("reserving: %v", err)
		return "", false
	}
	return leaseIn(t, answer)
}

// leaseIn reads an answer. One that is neither a lease nor a denial with its status fails the test.
func leaseIn(t *testing.T, answer *rlsv3.RateLimitResponse) (lease string, ok bool) {
	t.Helper()
	fields := answer.GetDynamicMetadata().GetFields()
	lease = fields[descriptor.KeyLease].GetStringValue()
	switch answer.GetOverallCode() {
	case rlsv3.RateLimitResponse_OK:
		if lease == "" {
			t.Error("a request is admitted and has no lease")
		}
		return lease, true
	default:
		if status := fields[descriptor.MetadataDenyStatus].GetStringValue(); status != "429" {
			t.Errorf("a request is refused with status %q, want 429: %s", status, answer.GetRawBody())
		}
		return "", false
	}
}

func (r *replica) settle(t *testing.T, lease string, tokens int) {
	t.Helper()
	if _, err := r.call(t.Context(), settling(lease, tokens)); err != nil {
		t.Errorf("settling: %v", err)
	}
}

// renew tells that requests are still under way, as the access log of Envoy does.
func (r *replica) renew(t *testing.T, leases ...string) {
	t.Helper()
	entries := &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{}
	for _, lease := range leases {
		fields := &structpb.Struct{Fields: map[string]*structpb.Value{descriptor.KeyLease: structpb.NewStringValue(lease)}}
		entries.LogEntry = append(entries.LogEntry, &accesslogv3.HTTPAccessLogEntry{CommonProperties: &accesslogv3.AccessLogCommon{
			Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{descriptor.MetadataService: fields}},
		}})
	}
	stream, err := r.log.StreamAccessLogs(t.Context())
	if err == nil {
		err = stream.Send(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: entries}})
	}
	if err == nil {
		_, err = stream.CloseAndRecv()
	}
	if err != nil {
		t.Errorf("renewing: %v", err)
	}
}

// offer asks about requests all at once, of all replicas in turn, and returns the leases of those that are admitted.
func (x *installation) offer(t *testing.T, n int, of func(i int) request) (leases []string) {
	t.Helper()
	var mu sync.Mutex
	x.crowd(n, func(i int, r *replica) {
		if lease, ok := r.reserve(t, of(i)); ok {
			mu.Lock()
			defer mu.Unlock()
			leases = append(leases, lease)
		}
	})
	return leases
}

// crowd calls do n times at once, with all replicas in turn.
func (x *installation) crowd(n int, do func(i int, r *replica)) {
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-start
			do(i, x.any())
		})
	}
	close(start)
	all.Wait()
}

// settleAll settles all leases at once, each at another replica than the one before it, and returns what they cost together.
func (x *installation) settleAll(t *testing.T, leases []string, cost func(i int) int) int64 {
	t.Helper()
	var sum atomic.Int64
	x.crowd(len(leases), func(i int, r *replica) {
		tokens := cost(i)
		sum.Add(int64(tokens))
		r.settle(t, leases[i], tokens)
	})
	return sum.Load()
}

func same(r request) func(int) request { return func(int) request { return r } }
