package standalone

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

// streamWorkers save grpc-go the growing of a stack for each call. More than the calls under way at once is enough.
const streamWorkers = 64

// service is the gRPC server that Envoys call: rate limits, signs of life and configuration, on one port.
type service struct {
	grpc     *grpc.Server
	listener net.Listener
	endpoint policy.Endpoint
}

// listen takes a port of the kernel's choice on loopback: the calls carry API keys and are not encrypted.
func listen(ctx context.Context, limiter *ratelimit.Limiter, xds *server.Server, log *slog.Logger) (*service, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return nil, fmt.Errorf("starting the rate-limit service: %w", err)
	}
	at, err := envoy.SplitAddress(l.Addr().String())
	if err != nil {
		return nil, err
	}
	g := grpc.NewServer(
		grpc.NumStreamWorkers(streamWorkers),
		ratelimit.Codec(),
		// Envoy pings every 2 seconds to find a hung service.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	ratelimit.Register(g, limiter, log)
	xds.Register(ctx, g)
	return &service{grpc: g, listener: l, endpoint: at}, nil
}

func (s *service) serve() error {
	if err := s.grpc.Serve(s.listener); err != nil {
		return fmt.Errorf("serving the rate-limit service: %w", err)
	}
	return nil
}

// stop lets calls under way end. Streams of configuration end before, with the context of listen; those of an Envoy that
// others started are cut after a while.
func (s *service) stop() {
	hard := time.AfterFunc(stopWait, s.grpc.Stop)
	defer hard.Stop()
	s.grpc.GracefulStop()
}

// signingKey is new for every process: leases live no longer than the Envoys that it started. (Those of an Envoy that others
// started are worth nothing after a restart: what they reserved stays charged until its window ends.)
func signingKey() ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	return key, nil
}
