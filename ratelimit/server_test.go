package ratelimit_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// everything is a logger that leaves nothing out.
func everything(to *lockedBuffer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(to, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// listen puts the limiter behind gRPC on loopback, and returns a connection to it.
func listen(t testing.TB, l *ratelimit.Limiter, log *slog.Logger) *grpc.ClientConn {
	t.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(ratelimit.ServerOptions()...)
	ratelimit.Register(server, l, log)
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-stopped; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func entry(key, value string) *commonv3.RateLimitDescriptor_Entry {
	return &commonv3.RateLimitDescriptor_Entry{Key: key, Value: value}
}

// reserving is the descriptor that Envoy sends for a chat request.
func reserving(key string, maxOutput int) *commonv3.RateLimitDescriptor {
	return &commonv3.RateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{
		entry(descriptor.KeyPhase, descriptor.PhaseReserve),
		entry(descriptor.KeyHeader+"authorization", "Bearer "+key),
		entry(descriptor.KeyClient, "192.0.2.1"),
		entry(descriptor.KeyGateway, gatewayName),
		entry(descriptor.KeyResource, "chat"),
		entry(descriptor.KeyProtocol, string(descriptor.ProtocolOpenAIChat)),
		entry(descriptor.KeyModel, "gpt-5"),
		entry(descriptor.KeyMaxOutput, strconv.Itoa(maxOutput)),
		entry(descriptor.KeyStream, "true"),
	}}
}

// settling is the descriptor that Envoy sends when a stream has ended.
func settling(lease string, code, output int) *commonv3.RateLimitDescriptor {
	return &commonv3.RateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{
		entry(descriptor.KeyPhase, descriptor.PhaseSettle),
		entry(descriptor.KeyLease, lease),
		entry(descriptor.KeyCode, strconv.Itoa(code)),
		entry(descriptor.KeyOutputTokens, strconv.Itoa(output)),
	}}
}

// pairsOf makes entries of keys and values in turn; empty values are left out, as Envoy does.
func pairsOf(list ...string) (entries []descriptor.Entry) {
	for pair := range slices.Chunk(list, 2) {
		if key, value := pair[0], pair[len(pair)-1]; value != "" {
			entries = append(entries, descriptor.Entry{Key: key, Value: value})
		}
	}
	return entries
}

func call(t testing.TB, conn *grpc.ClientConn, descriptors ...*commonv3.RateLimitDescriptor) *rlsv3.RateLimitResponse {
	t.Helper()
	answer, err := rlsv3.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(),
		&rlsv3.RateLimitRequest{Domain: descriptor.Domain, Descriptors: descriptors})
	if err != nil {
		t.Fatalf("calling: %v", err)
	}
	if got := len(answer.GetStatuses()); got != len(descriptors) {
		t.Errorf("the answer has %d statuses, want one for each of %d descriptors", got, len(descriptors))
	}
	return answer
}

// granted calls, must be admitted, and returns the lease.
func granted(t testing.TB, conn *grpc.ClientConn, d *commonv3.RateLimitDescriptor) string {
	t.Helper()
	answer := call(t, conn, d)
	lease := answer.GetDynamicMetadata().GetFields()[descriptor.KeyLease].GetStringValue()
	if answer.GetOverallCode() != rlsv3.RateLimitResponse_OK || lease == "" {
		t.Fatalf("the answer is %v, want OK and a lease", answer)
	}
	return lease
}

// wire is what Envoy makes of an answer.
type wire struct {
	Code     rlsv3.RateLimitResponse_Code
	Body     string
	Metadata map[string]any
	Headers  map[string]string
}

func read(answer *rlsv3.RateLimitResponse) wire {
	w := wire{
		Code: answer.GetOverallCode(), Body: string(answer.GetRawBody()),
		Metadata: answer.GetDynamicMetadata().AsMap(), Headers: map[string]string{},
	}
	for _, h := range answer.GetResponseHeadersToAdd() {
		w.Headers[h.GetKey()] = h.GetValue()
	}
	return w
}

func TestEnvoyReservesAndSettles(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := serve(t, oneTier("{rates: [{metric: Requests, per: Minute, max: 3}, {metric: Tokens, per: Minute, max: 100}], concurrency: {max: 2}}"))
	conn := listen(t, s.Limiter, everything(&log))
	answer := call(t, conn, reserving("sk-alice", 40))
	first := answer.GetDynamicMetadata().GetFields()[descriptor.KeyLease].GetStringValue()
	want := wire{
		Code:     rlsv3.RateLimitResponse_OK,
		Metadata: map[string]any{"lease": first},
		Headers: map[string]string{
			"x-ratelimit-limit-requests": "3", "x-ratelimit-remaining-requests": "2", "x-ratelimit-reset-requests": "1707913860",
			"x-ratelimit-limit-tokens": "100", "x-ratelimit-remaining-tokens": "60", "x-ratelimit-reset-tokens": "12s",
			"X-RateLimit-Limit": "3", "X-RateLimit-Remaining": "2", "X-RateLimit-Reset": "1707913860", "X-RateLimit-Used": "1",
			"X-RateLimit-Resource": "chat", "X-Request-Priority": "2",
		},
	}
	if diff := cmp.Diff(want, read(answer)); diff != "" {
		t.Errorf("what passes (-want +got):\n%s", diff)
	}
	second := granted(t, conn, reserving("sk-alice", 40))
	denied := read(call(t, conn, reserving("sk-alice", 40)))
	want = wire{
		Code:     rlsv3.RateLimitResponse_OVER_LIMIT,
		Body:     `{"error":{"type":"rate_limit_error","message":"Rate limit exceeded. Please retry after 12 seconds.","code":"rate_limit_exceeded"}}`,
		Metadata: map[string]any{"deny_status": "429"},
		Headers: map[string]string{
			"x-ratelimit-limit-requests": "3", "x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1707913860",
			"x-ratelimit-limit-tokens": "100", "x-ratelimit-remaining-tokens": "20", "x-ratelimit-reset-tokens": "12s",
			"X-RateLimit-Limit": "3", "X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "1707913860", "X-RateLimit-Used": "2",
			"X-RateLimit-Resource": "chat", "X-Request-Priority": "2",
			"Retry-After": "12", "content-type": "application/json",
		},
	}
	if diff := cmp.Diff(want, denied); diff != "" {
		t.Errorf("what is refused (-want +got):\n%s", diff)
	}

	// Envoy sends the settlements of several streams together. One that is bad must not cost the others.
	settled := call(t, conn, settling(first, 200, 5), settling("AAAA", 200, 5), settling(second, 503, 0))
	if diff := cmp.Diff(wire{Code: rlsv3.RateLimitResponse_OK, Headers: map[string]string{}, Metadata: map[string]any{}}, read(settled)); diff != "" {
		t.Errorf("the answer to settlements (-want +got):\n%s", diff)
	}
	left := map[string]int64{"Key Requests per Minute": 2, "Key Tokens per Minute": 5, "Key ConcurrentRequests": 0}
	if diff := cmp.Diff(left, s.used(t, chat("sk-alice"))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if got := bytes.Count([]byte(log.String()), []byte("dropped a settle")); got != 1 {
		t.Errorf("the log tells of %d dropped settlements, want 1:\n%s", got, log.String())
	}
	granted(t, conn, reserving("sk-alice", 40))
}

func TestEveryDenyStatusHasAMapperInEnvoy(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, s := range descriptor.DenyStatuses {
		known[strconv.Itoa(s)] = true
	}
	s := serve(t, holders)
	conn := listen(t, s.Limiter, slog.New(slog.DiscardHandler))
	long := reserving("sk-alice", 1)
	for _, e := range long.GetEntries() {
		if e.GetKey() == descriptor.KeyModel {
			e.Value = string(bytes.Repeat([]byte("m"), 300))
		}
	}
	for name, tc := range map[string]struct {
		asked  *commonv3.RateLimitDescriptor
		status string
	}{
		"an unknown key":        {reserving("sk-nobody", 1), "401"},
		"a model name too long": {long, "400"},
		"an unknown gateway": {
			&commonv3.RateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{entry(descriptor.KeyPhase, descriptor.PhaseReserve)}}, "503",
		},
	} {
		got := read(call(t, conn, tc.asked))
		if diff := cmp.Diff(map[string]any{"deny_status": tc.status}, got.Metadata); diff != "" || !known[tc.status] {
			t.Errorf("%s: metadata (-want +got), known to Envoy: %t\n%s", name, known[tc.status], diff)
		}
		if got.Code != rlsv3.RateLimitResponse_OVER_LIMIT || got.Body == "" {
			t.Errorf("%s: the answer is %+v", name, got)
		}
	}
}

func TestWhatIsNoAnswerIsAnError(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := serve(t, oneTier("{}"))
	broken := func(err error) *ratelimit.Limiter {
		l := ratelimit.New(&failing{s.store, err}, secret, ratelimit.WithClock(s.clock.now))
		l.SetTable(s.table)
		return l
	}
	reserve := reserving("sk-alice", 1)
	for name, tc := range map[string]struct {
		limiter *ratelimit.Limiter
		asked   []*commonv3.RateLimitDescriptor
		want    codes.Code
	}{
		"a phase that is unknown": {
			s.Limiter, []*commonv3.RateLimitDescriptor{{Entries: []*commonv3.RateLimitDescriptor_Entry{entry(descriptor.KeyPhase, "reflect")}}}, codes.InvalidArgument,
		},
		"no phase":                    {s.Limiter, []*commonv3.RateLimitDescriptor{{}}, codes.InvalidArgument},
		"two reserves":                {s.Limiter, []*commonv3.RateLimitDescriptor{reserve, reserve}, codes.InvalidArgument},
		"a store that fails":          {broken(errBroken), []*commonv3.RateLimitDescriptor{reserve}, codes.Unavailable},
		"a store that is out of time": {broken(fmt.Errorf("asking: %w", context.DeadlineExceeded)), []*commonv3.RateLimitDescriptor{reserve}, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := rlsv3.NewRateLimitServiceClient(listen(t, tc.limiter, everything(&log))).ShouldRateLimit(t.Context(),
				&rlsv3.RateLimitRequest{Domain: descriptor.Domain, Descriptors: tc.asked})
			if got := status.Code(err); got != tc.want {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// However many calls wait, over one connection, others are answered. Who hangs up waits no longer.
func TestCallsThatWaitHoldUpNoOthers(t *testing.T) {
	t.Parallel()
	s := serve(t, waiting("{concurrentRequests: 1, queue: {maxLength: 999, maxWaitSeconds: 300}}", "high1"))
	conn := listen(t, s.Limiter, slog.New(slog.DiscardHandler))
	held := granted(t, conn, reserving("sk-high1", 1))
	ctx, hangUp := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range ratelimit.StreamWorkers + 10 {
		all.Go(func() {
			_, err := rlsv3.NewRateLimitServiceClient(conn).ShouldRateLimit(ctx,
				&rlsv3.RateLimitRequest{Descriptors: []*commonv3.RateLimitDescriptor{reserving("sk-high1", 1)}})
			if status.Code(err) != codes.Canceled {
				t.Errorf("a call that waits ended with %v, want that it is cancelled", err)
			}
		})
	}
	for s.measured(t, "tierkeeper_queue_length", "gpt", "3") < ratelimit.StreamWorkers+10 {
		runtime.Gosched()
	}
	if got := read(call(t, conn, reserving("sk-nobody", 1))).Metadata["deny_status"]; got != "401" {
		t.Errorf("another call is answered %v, want 401", got)
	}
	hangUp()
	all.Wait()
	for s.calls(t)["reserve gone"] < ratelimit.StreamWorkers+10 {
		runtime.Gosched()
	}
	call(t, conn, settling(held, 200, 1))
	granted(t, conn, reserving("sk-high1", 1))
}

// How long calls took, and so how many there were, is measured by what became of them.
func TestCallsAreMeasuredByWhatBecameOfThem(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{concurrency: {max: 1}}"))
	conn := listen(t, s.Limiter, slog.New(slog.DiscardHandler))
	lease := granted(t, conn, reserving("sk-alice", 1))
	call(t, conn, reserving("sk-alice", 1))
	call(t, conn, reserving("sk-nobody", 1))
	call(t, conn, settling(lease, 200, 1), settling(lease, 200, 1), settling("", 200, 1))
	if diff := cmp.Diff(map[string]uint64{"reserve admitted": 1, "reserve refused": 2, "settle settled": 1, "settle dropped": 2}, s.calls(t)); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// calls counts those that were measured, by kind and outcome.
func (s *service) calls(t testing.TB) map[string]uint64 {
	t.Helper()
	n := map[string]uint64{}
	for _, f := range s.gather(t) {
		for _, m := range f.GetMetric() {
			if count := m.GetHistogram().GetSampleCount(); f.GetName() == "tierkeeper_call_seconds" && count > 0 {
				n[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = count
			}
		}
	}
	return n
}

// signOfLife is the log entry that Envoy sends for a running request.
func signOfLife(t testing.TB, namespace, lease string) *accesslogv3.HTTPAccessLogEntry {
	t.Helper()
	fields, err := structpb.NewStruct(map[string]any{descriptor.KeyLease: lease})
	if err != nil {
		t.Fatal(err)
	}
	return &accesslogv3.HTTPAccessLogEntry{CommonProperties: &accesslogv3.AccessLogCommon{
		Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{namespace: fields}},
	}}
}

func TestTheAccessLogKeepsSlots(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := serve(t, oneTier("{rates: [{metric: Tokens, per: Day, max: 500}], concurrency: {max: 3}}"))
	conn := listen(t, s.Limiter, everything(&log))
	running := granted(t, conn, reserving("sk-alice", 40))
	ended := granted(t, conn, reserving("sk-alice", 40))
	granted(t, conn, reserving("sk-alice", 40)) // It gives no sign of life.
	s.clock.advance(ratelimit.SlotExpiry - time.Second)
	call(t, conn, settling(ended, 200, 7))

	stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	entries := []*accesslogv3.HTTPAccessLogEntry{
		{},
		signOfLife(t, descriptor.MetadataService, "AAAA"),
		signOfLife(t, "some.other.filter", running),
		signOfLife(t, descriptor.MetadataService, running),
		signOfLife(t, descriptor.MetadataService, running),
		signOfLife(t, descriptor.MetadataService, ended),
	}
	for _, message := range []*alsv3.StreamAccessLogsMessage{
		{Identifier: &alsv3.StreamAccessLogsMessage_Identifier{LogName: "tierkeeper"}},
		{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries}}},
	} {
		if err := stream.Send(message); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}

	s.clock.advance(time.Second)
	want := map[string]int64{"Key Tokens per Day": 87, "Key ConcurrentRequests": 1}
	if diff := cmp.Diff(want, s.used(t, chat("sk-alice"))); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if got := bytes.Count([]byte(log.String()), []byte("dropped a sign of life")); got != 1 {
		t.Errorf("the log tells of %d dropped signs of life, want 1:\n%s", got, log.String())
	}
}

// The operator learns why a backend cannot be reached: once a minute for each reason, and nothing that a client wrote.
func TestABackendThatCannotBeReachedIsTold(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := serve(t, oneTier("{}"))
	conn := listen(t, s.Limiter, everything(&log))
	failed := func(cluster, reason string) *accesslogv3.HTTPAccessLogEntry {
		return &accesslogv3.HTTPAccessLogEntry{
			CommonProperties: &accesslogv3.AccessLogCommon{
				ResponseFlags: &accesslogv3.ResponseFlags{UpstreamConnectionFailure: true}, UpstreamCluster: cluster, UpstreamTransportFailureReason: reason,
			},
			Request: &accesslogv3.HTTPRequestProperties{Path: "/v1/chat/completions?key=sk-secret"},
		}
	}
	stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		entry *accesslogv3.HTTPAccessLogEntry
		told  int
	}{
		{failed("edge/main/openai", "CERTIFICATE_VERIFY_FAILED"), 1},
		{failed("edge/main/openai", "CERTIFICATE_VERIFY_FAILED"), 1},
		{failed("edge/main/openai", ""), 2},
		{failed("edge/main/other", "CERTIFICATE_VERIFY_FAILED"), 3},
		{nil, 3}, // a minute passes
		{failed("edge/main/openai", "CERTIFICATE_VERIFY_FAILED"), 4},
	} {
		if tc.entry == nil {
			s.clock.advance(time.Minute)
			continue
		}
		// A sign of life that is none is told behind it, so the entry before it has been read.
		mark := signOfLife(t, descriptor.MetadataService, "AAAA")
		before := s.measured(t, "tierkeeper_bad_input_total", "malformed_lease")
		if err := stream.Send(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
			HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*accesslogv3.HTTPAccessLogEntry{tc.entry, mark}},
		}}); err != nil {
			t.Fatal(err)
		}
		for s.measured(t, "tierkeeper_bad_input_total", "malformed_lease") == before {
			runtime.Gosched()
		}
		if got := bytes.Count([]byte(log.String()), []byte("a backend cannot be reached")); got != tc.told {
			t.Errorf("told %d times, want %d:\n%s", got, tc.told, log.String())
		}
	}
	if got := log.String(); strings.Contains(got, "sk-secret") || !strings.Contains(got, "edge/main/openai") || !strings.Contains(got, "CERTIFICATE_VERIFY_FAILED") {
		t.Errorf("the log says %s", got)
	}
}

func TestAnEndedStreamOfEntriesIsNoFailureOfOthers(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{}"))
	conn := listen(t, s.Limiter, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := stream.CloseAndRecv(); status.Code(err) != codes.Canceled {
		t.Errorf("the stream ended with %v, want that it is cancelled", err)
	}
	if got := read(call(t, conn, reserving("sk-nobody", 1))).Metadata["deny_status"]; got != strconv.Itoa(http.StatusUnauthorized) {
		t.Errorf("the service answers %v, want 401", got)
	}
}

func TestEnvoyIsToldThePoolOfATier(t *testing.T) {
	t.Parallel()
	s := serve(t, `
tiers:
  plan: {backendPool: dedicated, limits: {rates: [{metric: Requests, per: Minute, max: 1}]}}
  free: {limits: {rates: [{metric: Requests, per: Minute, max: 1}]}}
quotas: {team/alice: {tierRef: {name: plan}}, team/bob: {tierRef: {name: free}}}
gateway: {identity: {sources: [{header: Authorization, prefix: "Bearer "}], missingKey: {action: AssignTier, tierRef: {name: plan}}}}
`)
	conn := listen(t, s.Limiter, slog.New(slog.DiscardHandler))
	unmetered := reserving("sk-alice", 1)
	unmetered.Entries = append(unmetered.Entries, entry(descriptor.KeyUnmetered, "true"))
	for _, tc := range []struct {
		name string
		ask  *commonv3.RateLimitDescriptor
		want map[string]string
	}{
		{"a tier with a pool", reserving("sk-alice", 1), map[string]string{"x-tk-pool": "dedicated"}},
		{"one without", reserving("sk-bob", 1), map[string]string{}},
		{"a stranger on a tier with a pool", reserving("", 1), map[string]string{"x-tk-pool": "dedicated"}},
		{"where nothing is counted", unmetered, map[string]string{"x-tk-pool": "dedicated"}},
		{"a denial", reserving("sk-alice", 1), map[string]string{}},
	} {
		got := map[string]string{}
		for _, h := range call(t, conn, tc.ask).GetRequestHeadersToAdd() {
			got[h.GetKey()] = h.GetValue()
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: headers of the request (-want +got):\n%s", tc.name, diff)
		}
	}
}
