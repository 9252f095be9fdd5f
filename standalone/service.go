package standalone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tierkeeper/tierkeeper/grpcserver"
	"github.com/tierkeeper/tierkeeper/mtls"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

// service is a gRPC server that Envoys call.
type service struct {
	grpc     *grpc.Server
	listener *grpcserver.Listener
	endpoint policy.Endpoint
	stopping chan struct{}
}

// listen takes a port: without certificates one of loopback, because the calls carry API keys.
func listen(ctx context.Context, address string, files mtls.Files, log *slog.Logger, register func(*grpc.Server)) (*service, error) {
	if err := files.CheckAddress(address); err != nil {
		return nil, err
	}
	credentials, err := files.ServerCredentials(log)
	if err != nil {
		return nil, err
	}
	l, err := grpcserver.Listen(ctx, address)
	if err != nil {
		return nil, err
	}
	at, err := envoy.SplitAddress(l.Addr().String())
	if err != nil {
		return nil, err
	}
	stopping := make(chan struct{})
	options := append(grpcserver.Options(), ratelimit.ServerOptions()...)
	g := grpc.NewServer(append(options, grpc.Creds(credentials), grpc.StreamInterceptor(until(stopping)))...)
	register(g)
	return &service{grpc: g, listener: l, endpoint: at, stopping: stopping}, nil
}

// until ends streams, which have no end of their own, when the service stops: a stop that waited for them would keep away
// the service that comes next.
func until(stopping <-chan struct{}) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ended := make(chan error, 1)
		go func() { ended <- handler(srv, stream) }()
		select {
		case err := <-ended:
			return err
		case <-stopping:
			return status.Error(codes.Unavailable, "the service is stopping")
		}
	}
}

// tellUnlessServing warns of a rate-limit service that does not answer within the wait. Nobody else would: a gateway that lets requests
// through uncounted looks as if all were well.
func tellUnlessServing(ctx context.Context, address string, wait time.Duration, log *slog.Logger) {
	patient, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err == nil {
		_, err = healthv1.NewHealthClient(conn).Check(patient, &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true))
		err = errors.Join(err, conn.Close())
	}
	if err != nil && ctx.Err() == nil {
		log.WarnContext(ctx, "the rate-limit service does not answer; until it does, spec.failure of a gateway says what becomes of requests",
			"service", address, "error", err)
	}
}

// onLoopback reads "host:port".
func onLoopback(address string) (policy.Endpoint, error) {
	at, err := envoy.SplitAddress(address)
	if err != nil {
		return at, err
	}
	if !mtls.IsLoopback(address) {
		return at, fmt.Errorf("%s is not on loopback: calls carry API keys and are not encrypted, so they must not leave the machine; use %s:%d", address, loopback, at.Port)
	}
	return at, nil
}

func (s *service) serve() error {
	if err := s.grpc.Serve(s.listener); err != nil {
		return fmt.Errorf("serving the rate-limit service: %w", err)
	}
	return nil
}

// stop lets calls under way end, for a while, and ends all streams.
func (s *service) stop() {
	close(s.stopping)
	s.listener.Stop(s.grpc, stopWait)
}
