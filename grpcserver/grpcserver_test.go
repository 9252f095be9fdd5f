package grpcserver_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tierkeeper/tierkeeper/grpcserver"
	"github.com/tierkeeper/tierkeeper/internal/testca"
)

const enough = 30 * time.Second // for what happens on loopback, however busy the machine

// A server answers each call once it is told to.
type server struct {
	*grpcserver.Listener
	*grpc.Server

	called  chan struct{}
	answers chan struct{}
	served  chan error
	clients []*grpc.ClientConn
}

// leave closes the connections of all who called.
func (s *server) leave(t *testing.T) {
	t.Helper()
	for _, c := range s.clients {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// serve bears a handshake for as long as grpc does by itself, which is longer than any test.
func serve(t *testing.T, of credentials.TransportCredentials) *server {
	t.Helper()
	l, err := grpcserver.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: l, called: make(chan struct{}, 10), answers: make(chan struct{}, 10), served: make(chan error, 1)}
	s.Server = grpc.NewServer(grpc.Creds(of), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		if err := stream.RecvMsg(&healthv1.HealthCheckRequest{}); err != nil {
			return err
		}
		s.called <- struct{}{}
		select {
		case <-s.answers:
			return stream.SendMsg(&healthv1.HealthCheckResponse{})
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}))
	go func() { s.served <- s.Serve(l) }()
	return s
}

// call returns what comes of a call that the server has heard.
func (s *server) call(t *testing.T, with credentials.TransportCredentials) <-chan error {
	t.Helper()
	conn, err := grpc.NewClient(s.Addr().String(), grpc.WithTransportCredentials(with))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s.clients = append(s.clients, conn)
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), enough)
		defer cancel()
		_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
		done <- err
	}()
	receive(t, "the call is heard", s.called)
	return done
}

func (s *server) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// refuses waits until nobody can connect any more.
func (s *server) refuses(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Addr().String())
		if ctx.Err() != nil {
			t.Fatal("waited in vain until nobody can connect")
		}
		if err != nil {
			return
		}
		_ = conn.Close()
	}
}

// stop returns what is closed when the stop has ended.
func (s *server) stop(wait time.Duration) <-chan struct{} {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.Stop(wait)
	}()
	return stopped
}

// Stop is not that of the grpc.Server.
func (s *server) Stop(wait time.Duration) { s.Listener.Stop(s.Server, wait) }

func receive[T any](t *testing.T, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(enough):
		t.Fatalf("waited in vain until %s", what)
	}
	return v
}

// Whoever connects and says nothing, or not enough, holds up nobody: not a stop, and not the calls that may end before it.
func TestAStopDoesNotWaitForStrangers(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "ours")
	pair := ca.Issue(t, "127.0.0.1").TLS(t)
	of := credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}})
	with := credentials.NewTLS(&tls.Config{RootCAs: ca.Pool()})
	preface := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	for name, tc := range map[string]struct {
		of, with credentials.TransportCredentials
		stranger func(t *testing.T, conn net.Conn)
	}{
		"nothing":                   {insecure.NewCredentials(), insecure.NewCredentials(), func(*testing.T, net.Conn) {}},
		"nothing, with TLS":         {of, with, func(*testing.T, net.Conn) {}},
		"half a preface":            {insecure.NewCredentials(), insecure.NewCredentials(), func(t *testing.T, c net.Conn) { t.Helper(); write(t, c, preface[:10]) }},
		"a preface and no settings": {insecure.NewCredentials(), insecure.NewCredentials(), func(t *testing.T, c net.Conn) { t.Helper(); write(t, c, preface) }},
		"a record of TLS":           {of, with, func(t *testing.T, c net.Conn) { t.Helper(); write(t, c, []byte{22, 3, 1, 1, 0}) }},
		"nothing after a handshake": {of, with, func(t *testing.T, c net.Conn) {
			t.Helper()
			err := tls.Client(c, &tls.Config{RootCAs: ca.Pool(), ServerName: "127.0.0.1", NextProtos: []string{"h2"}}).HandshakeContext(t.Context())
			if err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tc.of)
			tc.stranger(t, s.dial(t))
			call := s.call(t, tc.with) // Connections are accepted in their order, so the stranger's was.
			stopped := s.stop(time.Hour)
			s.refuses(t)
			s.answers <- struct{}{}
			if err := receive(t, "the call ends", call); err != nil {
				t.Errorf("the call under way: %v", err)
			}
			receive(t, "the stop ends", stopped)
			if err := receive(t, "nothing is served any more", s.served); err != nil {
				t.Error(err)
			}
		})
	}
}

func write(t *testing.T, conn net.Conn, b []byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Error(err)
	}
}

// While a server drains it is called as before, by those who were there and by others, until all of them have gone.
func TestADrainServesUntilNobodyIsLeft(t *testing.T) {
	t.Parallel()
	s := serve(t, insecure.NewCredentials())
	before := s.dial(t)
	call := s.call(t, insecure.NewCredentials()) // Connections are accepted in their order.
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.Drain(time.Hour)
	}()
	another := s.call(t, insecure.NewCredentials())
	for range 2 { // Either call may take the first answer.
		s.answers <- struct{}{}
	}
	for _, done := range []<-chan error{call, another} {
		if err := receive(t, "a call ends", done); err != nil {
			t.Errorf("a call while the server drains: %v", err)
		}
	}
	select {
	case <-drained:
		t.Error("the drain has ended while somebody is connected")
	default:
	}
	s.leave(t)
	_ = before.Close()
	receive(t, "the drain ends", drained)
	receive(t, "the stop ends", s.stop(time.Hour))
}

func TestADrainLastsNoLongerThanItMay(t *testing.T) {
	t.Parallel()
	s := serve(t, insecure.NewCredentials())
	call := s.call(t, insecure.NewCredentials())
	s.Drain(time.Millisecond)
	s.answers <- struct{}{}
	if err := receive(t, "the call ends", call); err != nil {
		t.Errorf("the call under way: %v", err)
	}
}

func TestAStopWaitsNoLongerThanItMay(t *testing.T) {
	t.Parallel()
	s := serve(t, insecure.NewCredentials())
	call := s.call(t, insecure.NewCredentials())
	receive(t, "the stop ends", s.stop(time.Millisecond))
	if err := receive(t, "the call ends", call); status.Code(err) != codes.Unavailable {
		t.Errorf("the call got %v, want Unavailable", err)
	}
}

// What is accepted while the server stops is let go.
func TestNobodyIsLetInAfterAStop(t *testing.T) {
	t.Parallel()
	l, err := grpcserver.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: l}
	s.dial(t)
	g := grpc.NewServer()
	l.Stop(g, time.Hour)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := accepted.Write([]byte("x")); err == nil {
		t.Error("a connection is open that was accepted after the stop")
	}
	_ = l.Close()
}
