package server_test

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tierkeeper/tierkeeper/internal/testca"
)

// A listener whose clients come from another address than they do.
type elsewhere struct {
	net.Listener
	from string
}

// Accept implements net.Listener.
func (l elsewhere) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return movedConn{conn, l.from}, err
}

type movedConn struct {
	net.Conn
	from string
}

// RemoteAddr implements net.Conn.
func (c movedConn) RemoteAddr() net.Addr { return movedAddr(c.from) }

type movedAddr string

// Network implements net.Addr.
func (movedAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a movedAddr) String() string { return string(a) }

// socket is where a Unix socket may be: its path must be short.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "xds") //nolint:usetesting // The path of a socket must be short.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func TestConfigurationIsServedOnThisMachineAndToWhomACertificateProves(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "trusted")
	known, stranger := ca.Issue(t, "envoy"), testca.New(t, "stranger").Issue(t, "envoy")
	overTLS := func(ask tls.ClientAuthType) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{ca.Issue(t, "127.0.0.1").TLS(t)}, ClientAuth: ask, ClientCAs: ca.Pool()})
	}
	as := func(client testca.Pair) credentials.TransportCredentials {
		pair := client.TLS(t)
		return credentials.NewTLS(&tls.Config{RootCAs: ca.Pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &pair, nil // whoever is asked for
		}})
	}
	nobody := credentials.NewTLS(&tls.Config{RootCAs: ca.Pool()})
	plain := insecure.NewCredentials()
	for name, tc := range map[string]struct {
		from     string // empty: where it does come from
		network  string
		of, with credentials.TransportCredentials
		served   bool
	}{
		"loopback":                             {"", "tcp", plain, plain, true},
		"loopback of IPv4, anywhere in it":     {"127.8.8.8:4711", "tcp", plain, plain, true},
		"loopback of IPv6":                     {"[::1]:4711", "tcp", plain, plain, true},
		"loopback of IPv4, written in IPv6":    {"[::ffff:127.0.0.1]:4711", "tcp", plain, plain, true},
		"a socket in the file system":          {"", "unix", plain, plain, true},
		"another machine":                      {"10.0.0.7:4711", "tcp", plain, plain, false},
		"another machine, by IPv6":             {"[2001:db8::7]:4711", "tcp", plain, plain, false},
		"an address that is none":              {"localhost", "tcp", plain, plain, false},
		"TLS without a certificate":            {"10.0.0.7:4711", "tcp", overTLS(tls.VerifyClientCertIfGiven), nobody, false},
		"TLS with a certificate not looked at": {"10.0.0.7:4711", "tcp", overTLS(tls.RequireAnyClientCert), as(stranger), false},
		"TLS with a certificate":               {"10.0.0.7:4711", "tcp", overTLS(tls.VerifyClientCertIfGiven), as(known), true},
		"TLS on this machine":                  {"", "tcp", overTLS(tls.NoClientCert), nobody, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := "127.0.0.1:0"
			if tc.network == "unix" {
				address = socket(t)
			}
			l := listen(t, tc.network, address)
			if tc.from != "" {
				l = elsewhere{l, tc.from}
			}
			c := startOn(t, l, tc.of, tc.with)
			publish(t, c, one, secured(t, "sk-1"))
			e := c.connect(t, one.String())
			_ = e.stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: e.node, TypeUrl: secrets, ResourceNamesSubscribe: []string{credentialName}})
			r, err := e.stream.Recv()
			if tc.served {
				if err != nil || len(r.GetResources()) != 1 {
					t.Errorf("got %d secrets and %v, want one", len(r.GetResources()), err)
				}
				return
			}
			if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "it is served on loopback, or to clients with a certificate that was verified") {
				t.Errorf("got %v, want PermissionDenied and who is served", err)
			}
		})
	}
}
