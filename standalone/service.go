package standalone

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

// streamWorkers save grpc-go the growing of a stack for each call. More than the calls under way at once is enough.
const streamWorkers = 64

// service is a gRPC server that Envoys call.
type service struct {
	grpc     *grpc.Server
	listener net.Listener
	endpoint policy.Endpoint
}

// listen takes a port of loopback: the calls carry API keys and are not encrypted.
func listen(ctx context.Context, address string, register func(*grpc.Server)) (*service, error) {
	if _, err := onLoopback(address); err != nil {
		return nil, fmt.Errorf("starting the rate-limit service: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
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
	register(g)
	return &service{grpc: g, listener: l, endpoint: at}, nil
}

// onLoopback reads "host:port".
func onLoopback(address string) (policy.Endpoint, error) {
	at, err := envoy.SplitAddress(address)
	if err != nil {
		return at, err
	}
	if ip, err := netip.ParseAddr(at.Address); at.Address != "localhost" && (err != nil || !ip.IsLoopback()) {
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

// stop lets calls under way end. Streams of configuration end before, with the context of listen; those of an Envoy that
// others started are cut after a while.
func (s *service) stop() {
	hard := time.AfterFunc(stopWait, s.grpc.Stop)
	defer hard.Stop()
	s.grpc.GracefulStop()
}
