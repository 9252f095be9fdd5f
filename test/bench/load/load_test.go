package load_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/internal/port"
	"github.com/tierkeeper/tierkeeper/test/bench/load"
)

// A server answers by a function, over real gRPC.
type server struct {
	rlsv3.UnimplementedRateLimitServiceServer

	calls  atomic.Int64
	answer func(ctx context.Context, n int64, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error)
}

// ShouldRateLimit implements the rate limit protocol.
func (s *server) ShouldRateLimit(ctx context.Context, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	return s.answer(ctx, s.calls.Add(1), r)
}

func serve(t *testing.T, s *server) (address string, stop func()) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	rlsv3.RegisterRateLimitServiceServer(g, s)
	var done sync.WaitGroup
	done.Go(func() { _ = g.Serve(l) })
	stop = func() {
		g.Stop()
		done.Wait()
	}
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func ok(context.Context, int64, *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}, nil
}

func call(t *testing.T, domain string) load.Call {
	t.Helper()
	body, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 5), &rlsv3.RateLimitRequest{Domain: domain})
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(body[1:], uint32(len(body)-5)) //nolint:gosec // A call is small.
	return load.Call{Body: body, Header: []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: rlsv3.RateLimitService_ShouldRateLimit_FullMethodName},
		{Name: ":authority", Value: "test"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
	}}
}

// plan sends one call again and again, and takes every OK of gRPC for admitted.
func plan(t *testing.T, address, domain string) *load.Plan {
	t.Helper()
	c := call(t, domain)
	return &load.Plan{
		Address: address, Connections: 2, Outstanding: 8,
		Next: func(*rand.Rand) load.Call { return c },
		Read: func(a *load.Answer) (load.Outcome, *load.Call) {
			if a.GRPCStatus != "0" {
				return load.Failed, nil
			}
			return load.Admitted, nil
		},
	}
}

func run(t *testing.T, p *load.Plan) *load.Result {
	t.Helper()
	r, err := load.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestExactlyTheTotalIsSentAndCounted(t *testing.T) {
	t.Parallel()
	s := &server{answer: ok}
	address, _ := serve(t, s)
	for _, rate := range []float64{0, 20_000} {
		s.calls.Store(0)
		p := plan(t, address, "d")
		p.Total, p.Rate = 1001, rate
		r := run(t, p)
		if r.Admitted != 1001 || r.Calls() != 1001 || s.calls.Load() != 1001 {
			t.Errorf("rate %v: the server got %d calls, and %d of %d were admitted, want 1001", rate, s.calls.Load(), r.Admitted, r.Calls())
		}
	}
}

// A server that answers nothing before it has as many calls as may be outstanding shows that there are as many, and no more.
func TestAClosedLoopKeepsSoManyOutstanding(t *testing.T) {
	t.Parallel()
	full := make(chan struct{})
	isFull := sync.OnceFunc(func() { close(full) })
	var under, most atomic.Int64
	s := &server{answer: func(ctx context.Context, n int64, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
		now := under.Add(1)
		defer under.Add(-1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() { //nolint:revive // The condition is the work.
		}
		if now == 8 {
			isFull()
		}
		select {
		case <-full:
		case <-ctx.Done():
		}
		return ok(ctx, n, r)
	}}
	address, _ := serve(t, s)
	p := plan(t, address, "d")
	p.Total = 200
	if r := run(t, p); r.Admitted != 200 || most.Load() != 8 {
		t.Errorf("%d calls were admitted, and at most %d outstanding, want 200 and 8", r.Admitted, most.Load())
	}
}

// The server answers nothing before it has 50 calls, of which one is due every 2 ms: who waits for answers never sends so many,
// and who counts from when a call was sent sees no wait.
func TestAnOpenLoopSendsOnTimeAndCountsTheWait(t *testing.T) {
	t.Parallel()
	enough := make(chan struct{})
	s := &server{answer: func(ctx context.Context, n int64, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
		if n == 50 {
			close(enough)
		}
		select {
		case <-enough:
		case <-ctx.Done():
		}
		return ok(ctx, n, r)
	}}
	address, _ := serve(t, s)
	p := plan(t, address, "d")
	p.Outstanding, p.Rate, p.Total = 1, 500, 50
	r := run(t, p)
	if longest := r.Latency.At(1); r.Admitted != 50 || longest < 90*time.Millisecond {
		t.Errorf("%d calls were admitted, the first after %v, want 50, and at least 90ms", r.Admitted, longest)
	}
}

func TestAFollowerIsSentOnceAndNotCounted(t *testing.T) {
	t.Parallel()
	var first, second atomic.Int64
	s := &server{answer: func(ctx context.Context, n int64, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
		if r.GetDomain() == "second" {
			second.Add(1)
		} else {
			first.Add(1)
		}
		return ok(ctx, n, r)
	}}
	address, _ := serve(t, s)
	p := plan(t, address, "first")
	p.Total = 300
	follower := call(t, "second")
	read := p.Read
	p.Read = func(a *load.Answer) (load.Outcome, *load.Call) {
		outcome, _ := read(a)
		return outcome, &follower
	}
	if r := run(t, p); r.Calls() != 300 || first.Load() != 300 || second.Load() != 300 {
		t.Errorf("%d calls were counted; the server got %d and %d that follow, want 300 each", r.Calls(), first.Load(), second.Load())
	}
}

// More is outstanding than a server takes before it says that it takes more.
func TestTheWindowOfTheServerIsKept(t *testing.T) {
	t.Parallel()
	address, _ := serve(t, &server{answer: ok})
	p := plan(t, address, strings.Repeat("x", 10_000))
	p.Connections, p.Outstanding, p.Total = 1, 64, 500
	if r := run(t, p); r.Admitted != 500 {
		t.Errorf("%d calls were admitted, want 500", r.Admitted)
	}
}

func TestWhyACallFailedIsTold(t *testing.T) {
	t.Parallel()
	s := &server{answer: func(_ context.Context, n int64, _ *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
		if n%2 == 0 {
			return nil, status.Error(codes.Unavailable, "the store is away")
		}
		return &rlsv3.RateLimitResponse{}, nil
	}}
	address, _ := serve(t, s)
	p := plan(t, address, "d")
	p.Total = 100
	r := run(t, p)
	if r.Failed != 50 || r.Admitted != 50 || !strings.Contains(r.Failure, "gRPC status 14 the store is away") {
		t.Errorf("%d calls failed and %d were admitted, because %q", r.Failed, r.Admitted, r.Failure)
	}
}

func TestAServerThatGoesAwayIsAnError(t *testing.T) {
	t.Parallel()
	reached := make(chan struct{})
	// From the 100th on nobody gets an answer: a load whose last call was answered before the server went lacks nothing.
	s := &server{answer: func(ctx context.Context, n int64, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
		if n < 100 {
			return ok(ctx, n, r)
		}
		if n == 100 {
			close(reached)
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	address, stop := serve(t, s)
	l, err := load.Start(t.Context(), plan(t, address, "d"))
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	stop()
	if _, err := l.Stop(); err == nil {
		t.Error("the server went away, and nothing is wrong")
	}
	nobody := net.JoinHostPort("127.0.0.1", strconv.Itoa(port.Reserve(t)))
	if _, err := load.Start(t.Context(), plan(t, nobody, "d")); err == nil {
		t.Error("nobody listens, and nothing is wrong")
	}
}

// Only what is answered while it counts is counted.
func TestNothingIsCountedUnlessAsked(t *testing.T) {
	t.Parallel()
	reached := make(chan struct{})
	s := &server{answer: func(ctx context.Context, n int64, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
		if n == 100 {
			close(reached)
		}
		return ok(ctx, n, r)
	}}
	address, _ := serve(t, s)
	l, err := load.Start(t.Context(), plan(t, address, "d"))
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	if r, err := l.Stop(); err != nil || r.Calls() != 0 {
		t.Errorf("%d calls were counted (%v), want none", r.Calls(), err)
	}
}

func TestAHistogramIsRightToWithinOnePercent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var one, other load.Histogram
		d := time.Duration(rapid.Int64Min(0).Draw(t, "d"))
		one.Add(d)
		other.Merge(&one)
		if got := other.At(0.5); float64(max(got-d, d-got)) > 0.008*float64(d) {
			t.Fatalf("%v is told as %v", d, got)
		}
	})
}

func TestAHistogramTellsWhatAShareDoesNotExceed(t *testing.T) {
	t.Parallel()
	var h load.Histogram
	if got := h.At(0.5); got != 0 {
		t.Errorf("of nothing the median is %v", got)
	}
	for i := range 100 {
		h.Add(time.Duration(i))
	}
	h.Add(-1)
	for share, want := range map[float64]time.Duration{0: 0, 0.5: 49, 0.99: 98, 1: 99} {
		if got := h.At(share); got != want {
			t.Errorf("at %v: %d, want %d", share, got, want)
		}
	}
}
