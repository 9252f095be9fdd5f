package ratelimit

import (
	"context"
	"log/slog"
	"strconv"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// Register puts the limiter behind the services that Envoy calls. What goes wrong with calls that nobody waits for is logged.
func Register(g *grpc.Server, l *Limiter, log *slog.Logger) {
	rlsv3.RegisterRateLimitServiceServer(g, NewServer(l, log))
	alsv3.RegisterAccessLogServiceServer(g, NewAccessLog(l, log))
}

// A Server speaks Envoy's rate limit protocol in front of a Limiter. It holds no decision of its own.
type Server struct {
	rlsv3.UnimplementedRateLimitServiceServer

	limiter  *Limiter
	log      *slog.Logger
	reserves sync.Pool
}

// NewServer puts the limiter behind the rate limit protocol. What is wrong with a settle, which nobody waits for, is logged.
func NewServer(l *Limiter, log *slog.Logger) *Server {
	return &Server{limiter: l, log: log, reserves: sync.Pool{New: func() any { return new(descriptor.Reserve) }}}
}

// ShouldRateLimit answers one reserve, or takes any number of settles. Envoy sends the settles of several streams together,
// and waits for no answer to them.
func (s *Server) ShouldRateLimit(ctx context.Context, req *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	answer := &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}
	for _, d := range req.GetDescriptors() {
		switch phase := descriptor.Phase(d.GetEntries()); phase {
		case descriptor.PhaseReserve:
			if err := s.reserve(ctx, d.GetEntries(), answer); err != nil {
				return nil, err
			}
		case descriptor.PhaseSettle:
			s.settle(ctx, d.GetEntries())
		default:
			return nil, status.Error(codes.InvalidArgument, "the descriptor has no phase that this service knows; is Envoy configured by Tierkeeper?")
		}
		answer.Statuses = append(answer.Statuses, &rlsv3.RateLimitResponse_DescriptorStatus{Code: answer.OverallCode})
	}
	return answer, nil
}

func (s *Server) reserve(ctx context.Context, entries []*commonv3.RateLimitDescriptor_Entry, answer *rlsv3.RateLimitResponse) error {
	r := s.reserves.Get().(*descriptor.Reserve) //nolint:forcetypeassert // The pool holds nothing else.
	defer s.release(r)
	descriptor.DecodeReserve(entries, r)
	d, err := s.limiter.Reserve(ctx, r)
	switch {
	case err == nil:
	case ctx.Err() != nil: // not the error itself: a store may have a deadline of its own
		return status.FromContextError(ctx.Err()).Err()
	default:
		s.log.ErrorContext(ctx, "could not count a request", "error", err)
		return status.Error(codes.Unavailable, "the counter store failed")
	}
	write(d, answer)
	return nil
}

// release drops what the request brought, so that no API key outlives it in a pool.
func (s *Server) release(r *descriptor.Reserve) {
	clear(r.Credentials[:cap(r.Credentials)])
	*r = descriptor.Reserve{Credentials: r.Credentials[:0]}
	s.reserves.Put(r)
}

func (s *Server) settle(ctx context.Context, entries []*commonv3.RateLimitDescriptor_Entry) {
	told := descriptor.DecodeSettle(entries)
	// Envoy may hang up as soon as it has told; the settle counts all the same.
	if err := s.limiter.Settle(context.WithoutCancel(ctx), &told); err != nil {
		s.limiter.complain(ctx, s.log, "dropped a settle", err)
	}
}

func write(d Decision, answer *rlsv3.RateLimitResponse) {
	for _, h := range d.Headers {
		answer.ResponseHeadersToAdd = append(answer.ResponseHeadersToAdd, &corev3.HeaderValue{Key: h.Name, Value: h.Value})
	}
	if d.Pool != "" {
		answer.RequestHeadersToAdd = append(answer.RequestHeadersToAdd, &corev3.HeaderValue{Key: descriptor.HeaderPool, Value: d.Pool})
	}
	key, value := descriptor.KeyLease, d.Lease
	switch {
	case d.Status != 0:
		answer.OverallCode = rlsv3.RateLimitResponse_OVER_LIMIT
		answer.RawBody = []byte(d.Body)
		answer.ResponseHeadersToAdd = append(answer.ResponseHeadersToAdd, &corev3.HeaderValue{Key: "content-type", Value: "application/json"})
		key, value = descriptor.MetadataDenyStatus, strconv.Itoa(d.Status)
	case d.Lease == "":
		return // Nothing is counted, so nothing is to be settled.
	}
	answer.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{key: structpb.NewStringValue(value)}}
}
