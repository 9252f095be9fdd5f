package main

import (
	"context"
	"fmt"
	"net"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

func newFloor() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "floor",
		Short: "Serve a rate-limit service that says OK at once",
		Long: `Serve a rate-limit service that says OK at once to everything, as little as grpc-go without any settings can do. What a
service costs beyond it is what it does.`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command) error { return serveFloor(cmd.Context(), address) }),
	}
	cmd.Flags().StringVar(&address, "address", "127.0.0.1:8081", "address to listen on")
	return cmd
}

func serveFloor(ctx context.Context, address string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening (choose where with --address): %w", err)
	}
	server := grpc.NewServer()
	rlsv3.RegisterRateLimitServiceServer(server, yes{})
	healthv1.RegisterHealthServer(server, health.NewServer()) // Envoy asks.
	defer context.AfterFunc(ctx, server.Stop)()
	if err := server.Serve(l); err != nil {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// yes says OK to everything.
type yes struct {
	rlsv3.UnimplementedRateLimitServiceServer
}

// ShouldRateLimit implements the rate limit protocol.
func (yes) ShouldRateLimit(_ context.Context, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	answer := &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}
	for range r.GetDescriptors() {
		answer.Statuses = append(answer.Statuses, &rlsv3.RateLimitResponse_DescriptorStatus{Code: rlsv3.RateLimitResponse_OK})
	}
	return answer, nil
}
