package mtls

import (
	"context"
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// CheckPeer refuses a stream of whoever is neither on this machine nor proves by a certificate who it is, with PermissionDenied.
// Why says what the others must not be told, as in "configuration holds Secrets". Who gets past it is trusted with
// everything: who a client is is what it says itself.
func CheckPeer(ctx context.Context, why string) error {
	p, known := peer.FromContext(ctx)
	if !known {
		return status.Error(codes.PermissionDenied, "nobody knows where this stream comes from")
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.VerifiedChains) > 0 {
		return nil
	}
	if at, err := netip.ParseAddrPort(p.Addr.String()); err == nil && at.Addr().Unmap().IsLoopback() || p.Addr.Network() == "unix" {
		return nil
	}
	return status.Errorf(codes.PermissionDenied, "%s: it is served on loopback, or to clients with a certificate that was verified", why)
}
