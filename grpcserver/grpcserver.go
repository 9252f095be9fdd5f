// Package grpcserver decides what a gRPC server of this project bears from those who connect: how long they may take to say who
// they are, how long they may be silent, and for how long a stop waits for them.
package grpcserver

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/tierkeeper/tierkeeper/internal/sock"
)

const (
	handshake = 5 * time.Second // that of TLS and of HTTP/2 together
	// A client that hangs, or a machine that vanishes, closes no connection: after a silence it is asked for a word, and given up if
	// none comes.
	silence = 20 * time.Second
	answer  = 10 * time.Second
	pings   = time.Second // Envoy pings every 2 seconds to find a hung server.
)

// Options are for grpc.NewServer.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ConnectionTimeout(handshake),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: silence, Timeout: answer}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pings, PermitWithoutStream: true}),
	}
}

// A Listener is one for a grpc.Server, which it can stop. It is safe for concurrent use.
type Listener struct {
	net.Listener

	mu        sync.Mutex
	stopping  bool
	connected map[*conn]bool
	strangers map[*conn]bool // those whose handshake is not over
	left      chan struct{}  // somebody may have gone
}

// Listen takes an address, as host:port.
func Listen(ctx context.Context, address string) (*Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &Listener{Listener: l, connected: map[*conn]bool{}, strangers: map[*conn]bool{}, left: make(chan struct{}, 1)}, nil
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{sock.New(accepted), l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopping {
		_ = accepted.Close() // Its handshake fails at once.
		return c, nil
	}
	l.connected[c], l.strangers[c] = true, true
	return c, nil
}

// Drain lets those who are connected take notice that the server is about to stop, and call others, before it does: they have so
// long, or until the last of them has gone. Meanwhile it is served as before.
func (l *Listener) Drain(wait time.Duration) {
	late := time.NewTimer(wait)
	defer late.Stop()
	for l.busy() {
		select {
		case <-late.C:
			return
		case <-l.left:
		}
	}
}

func (l *Listener) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.connected) > 0
}

// Stop stops the server that serves the Listener. Calls under way may end, but only for so long; who has made no call yet is not waited
// for. It is called once. Streams without an end of their own must be ended by whoever serves them.
func (l *Listener) Stop(g *grpc.Server, wait time.Duration) {
	hard := time.AfterFunc(wait, g.Stop)
	defer hard.Stop()
	// A grpc.Server that stops, gracefully or not, waits for every handshake before anything else.
	for _, c := range l.turnAway() {
		_ = c.Close()
	}
	g.GracefulStop()
}

// turnAway returns those who have not said who they are, and lets nobody in any more.
func (l *Listener) turnAway() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopping = true
	return slices.Collect(maps.Keys(l.strangers))
}

// know notes that somebody has said who he is.
func (l *Listener) know(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.strangers, c)
}

func (l *Listener) forget(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.strangers, c)
	delete(l.connected, c)
	select {
	case l.left <- struct{}{}:
	default:
	}
}

// A conn tells the Listener when its handshake is over.
type conn struct {
	net.Conn

	of *Listener
}

// SetDeadline implements net.Conn. A grpc.Server sets one for the handshake, and lifts it when that is over.
func (c *conn) SetDeadline(t time.Time) error {
	if t.IsZero() {
		c.of.know(c)
	}
	return c.Conn.SetDeadline(t)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.of.forget(c)
	return c.Conn.Close()
}
