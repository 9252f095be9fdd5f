package feed_test

import (
	"crypto/tls"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tierkeeper/tierkeeper/internal/testca"
)

// A listener whose clients come from another machine, by what their addresses say.
type elsewhere struct{ net.Listener }

// Accept implements net.Listener.
func (l elsewhere) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return movedConn{conn}, err
}

type movedConn struct{ net.Conn }

// RemoteAddr implements net.Conn.
func (movedConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 4711} }

func TestPolicyIsToldOnThisMachineAndToWhomACertificateProves(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "trusted")
	server := credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{ca.Issue(t, "127.0.0.1").TLS(t)}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: ca.Pool(),
	})
	for name, tc := range map[string]struct {
		client credentials.TransportCredentials
		served bool
	}{
		"with a certificate":    {credentials.NewTLS(&tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{ca.Issue(t, "service").TLS(t)}}), true},
		"without a certificate": {credentials.NewTLS(&tls.Config{RootCAs: ca.Pool()}), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBell()
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			o := serve(t, b, elsewhere{l}, grpc.Creds(server))
			table := compile(customers(3))
			o.Publish(table, 1)
			log := logbook{bell: b}
			c := o.config("service-0", "")
			c.Credentials, c.Log = tc.client, log.log()
			f := follow(t, b, c)
			if tc.served {
				o.waitFor(t, "service-0", 1)
				f.holds(t, table)
				return
			}
			f.wait(t, "the refusal is logged", func() bool {
				return log.has("policy says which keys there are: it is served on loopback, or to clients with a certificate that was verified")
			})
			if f.table() != nil {
				t.Error("a table is in force")
			}
		})
	}
	b := newBell()
	o := start(t, b)
	o.Publish(compile(customers(3)), 1)
	c := o.config("service-0", "")
	c.Credentials = insecure.NewCredentials()
	follow(t, b, c)
	o.waitFor(t, "service-0", 1)
}
