package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/tierkeeper/tierkeeper/internal/pause"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A ClientConfig says whom to follow, and where to keep what was told.
type ClientConfig struct {
	Address     string                           // of the Server, as grpc.NewClient takes it
	Credentials credentials.TransportCredentials // nil: none, which is for an Address on this machine only
	Node        string                           // names this client to the Server, among all of them
	CacheFile   string                           // keeps the last Table across restarts; empty: none. It belongs to one process at a time
	Log         *slog.Logger                     // nil: nowhere
	Clock       func() time.Time                 // nil: that of the machine

	// Tell, if not nil, is called with every new Status, by the goroutine that runs Follow.
	Tell func(Status)
}

// A Status is how a client stands with its Server.
type Status struct {
	Table bool      // one is in force, be it from the file
	Down  time.Time // since when the Server has told nothing; zero: what is in force is what it told last
}

// The pauses before a client connects again: half as long to half longer, at random, and twice as long each time. The operator
// waits a while for clients before it says that there are none; it must not have to wait longer than the last pause.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// A server that hangs, or a machine that vanishes, closes no connection: after pingEvery without a word it is asked for one, and
// given up if none comes within pingWait. Less than 10 seconds grpc does not take.
const (
	pingEvery = 10 * time.Second
	pingWait  = 5 * time.Second
)

// Follow calls obey with the last Table that the CacheFile has, if any, and from then on with every Table that the Server
// tells, until ctx ends; then it returns nil. It connects again for ever. What of a Table cannot be put in force is left out,
// logged and reported to the Server; the version of such a Table says so. An error means that the ClientConfig is wrong.
//
// A file that cannot be read is put aside, under its name with ".unreadable" behind it.
func Follow(ctx context.Context, c ClientConfig, obey func(*policy.Table)) error {
	if err := c.complete(); err != nil {
		return err
	}
	f := newFollower(&c, obey)
	defer f.close()
	f.load(ctx)
	pauses := &backoff.ExponentialBackOff{InitialInterval: firstPause, MaxInterval: lastPause, Multiplier: 2, RandomizationFactor: 0.5}
	pauses.Reset()
	for {
		err := f.connect(ctx, pauses.Reset)
		if ctx.Err() != nil {
			return nil
		}
		f.down(ctx, err)
		if !pause.For(ctx, pauses.NextBackOff()) {
			return nil
		}
	}
}

// complete fills in what may be left away.
func (c *ClientConfig) complete() error {
	switch {
	case c.Address == "":
		return errors.New("following the policy server: Address is empty; give the address of the operator")
	case c.Node == "":
		return errors.New("following the policy server: Node is empty; give this replica a name that no other has")
	case c.Credentials == nil && !onThisMachine(c.Address):
		return fmt.Errorf("following the policy server: %s is on another machine; give a certificate and the authority of the server's", c.Address)
	}
	if c.Credentials == nil {
		c.Credentials = insecure.NewCredentials()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = time.Now //nolint:forbidigo // The clock of whoever injects none.
	}
	if c.Tell == nil {
		c.Tell = func(Status) {}
	}
	return nil
}

func onThisMachine(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// connect follows the server until the connection breaks. It calls upToDate at the end of every consistent set. Each
// connection is a new one, so that its pauses are ours and the address is looked up again.
func (f *follower) connect(ctx context.Context, upToDate func()) error {
	conn, err := grpc.NewClient(f.Address, grpc.WithTransportCredentials(f.Credentials),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingWait, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	raw, err := conn.NewStream(ctx, &grpc.StreamDesc{StreamName: method, ServerStreams: true, ClientStreams: true}, "/"+service+"/"+method)
	if err != nil {
		return err
	}
	stream := &grpcClientSide{ClientStream: raw}
	if err := f.greet(stream); err != nil {
		return broken(stream, err)
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		ack := f.take(ctx, r)
		if err := stream.Send(ack); err != nil {
			return broken(stream, err)
		}
		if complete(r) {
			upToDate()
			f.up(ctx)
			f.keep(ctx)
		}
	}
}

// broken finds out why a stream does not send: if it has ended, the reason comes with what is received.
func broken(stream clientStream, err error) error {
	for errors.Is(err, io.EOF) {
		if _, reason := stream.Recv(); reason != nil {
			return reason
		}
	}
	return err
}

// complete reports whether a consistent set ends with the response.
func complete(r *response) bool { return r.GetSystemVersionInfo() != "" }
