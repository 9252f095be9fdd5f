package ratelimit

import (
	"context"
	"log/slog"
	"sync"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// Register puts the limiter behind the services that Envoy calls. The server is made with ServerOptions. What goes wrong with calls
// that nobody waits for is logged.
func Register(g *grpc.Server, l *Limiter, log *slog.Logger) {
	g.RegisterService(&rateLimitService, &server{limiter: l, log: log})
	alsv3.RegisterAccessLogServiceServer(g, &accessLog{limiter: l, log: log})
}

// rateLimitService is the service as Envoy knows it, with messages that the codec of ServerOptions reads and writes. No interceptor
// sees them.
var rateLimitService = grpc.ServiceDesc{
	ServiceName: rlsv3.RateLimitService_ServiceDesc.ServiceName,
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "ShouldRateLimit",
		Handler: func(s any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			return s.(*server).shouldRateLimit(ctx, read) //nolint:forcetypeassert // It is registered with nothing else.
		},
	}},
}

// A server speaks Envoy's rate limit protocol in front of a Limiter. It holds no decision of its own.
type server struct {
	limiter *Limiter
	log     *slog.Logger
}

// calls keeps the room that a call takes.
var calls = sync.Pool{New: func() any { return new(call) }}

func (s *server) shouldRateLimit(ctx context.Context, read func(any) error) (any, error) {
	c := calls.Get().(*call) //nolint:forcetypeassert // The pool holds nothing else.
	defer func() {
		c.forget()
		calls.Put(c)
	}()
	if err := read(c); err != nil {
		return nil, err
	}
	d, err := s.take(ctx, c)
	if err != nil {
		return nil, err
	}
	pool := mem.DefaultBufferPool()
	room := pool.Get(answerRoom)
	*room = appendAnswer((*room)[:0], &d, len(c.ends))
	d.headers.free()
	return mem.NewBuffer(room, pool), nil
}

// take answers one reserve, or takes any number of settles. Envoy sends the settles of several streams together, and waits for
// no answer to them.
func (s *server) take(ctx context.Context, c *call) (d Decision, err error) {
	start, reserved := 0, false
	for _, end := range c.ends {
		entries := c.entries[start:end]
		start = end
		switch phase := descriptor.Phase(entries); {
		case phase == descriptor.PhaseReserve && !reserved:
			reserved = true
			descriptor.DecodeReserve(entries, &c.reserve)
			if d, err = s.reserve(ctx, &c.reserve); err != nil {
				return d, err
			}
		case phase == descriptor.PhaseReserve:
			return d, status.Error(codes.InvalidArgument, "the call has more than one reserve; is Envoy configured by Tierkeeper?")
		case phase == descriptor.PhaseSettle:
			s.settle(ctx, entries)
		default:
			return d, status.Error(codes.InvalidArgument, "the descriptor has no phase that this service knows; is Envoy configured by Tierkeeper?")
		}
	}
	return d, nil
}

func (s *server) reserve(ctx context.Context, r *descriptor.Reserve) (Decision, error) {
	start, became := s.limiter.clock(), s.limiter.calls.admitted
	d, err := s.limiter.Reserve(ctx, r)
	switch {
	case err != nil && ctx.Err() != nil: // not the error itself: a store may have a deadline of its own
		became, err = s.limiter.calls.gone, status.FromContextError(ctx.Err()).Err()
	case err != nil:
		s.log.ErrorContext(ctx, "could not count a request", "error", err)
		became, err = s.limiter.calls.failed, status.Error(codes.Unavailable, "the counter store failed")
	case d.Status != 0:
		became = s.limiter.calls.refused
	}
	became.Observe(s.limiter.clock().Sub(start).Seconds())
	return d, err
}

func (s *server) settle(ctx context.Context, entries []descriptor.Entry) {
	start, became := s.limiter.clock(), s.limiter.calls.settled
	told := descriptor.DecodeSettle(entries)
	// Envoy may hang up as soon as it has told; the settle counts all the same.
	if err := s.limiter.Settle(context.WithoutCancel(ctx), &told); err != nil {
		became = s.limiter.calls.dropped
		s.limiter.complain(ctx, s.log, "dropped a settle", err)
	}
	became.Observe(s.limiter.clock().Sub(start).Seconds())
}
