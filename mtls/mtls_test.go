package mtls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tierkeeper/tierkeeper/internal/testca"
	"github.com/tierkeeper/tierkeeper/mtls"
)

const enough = 30 * time.Second // for an answer on loopback, however busy the machine

func filesIn(m *testca.Mount) mtls.Files { return mtls.Files{Cert: m.Cert(), Key: m.Key(), CA: m.CA()} }

// A journal keeps what is logged.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// serve runs a server and returns its address and what it logs.
func serve(t *testing.T, f mtls.Files) (string, *journal) {
	t.Helper()
	log := &journal{}
	creds, err := f.ServerCredentials(log.logger())
	if err != nil {
		t.Fatal(err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(creds))
	healthv1.RegisterHealthServer(g, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), log
}

func dial(t *testing.T, address string, with credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(with))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func ask(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return err
}

func client(t *testing.T, f mtls.Files, serverName string) credentials.TransportCredentials {
	t.Helper()
	creds, err := f.ClientCredentials(serverName, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

func TestOnlyWhoProvesItsNameIsServed(t *testing.T) {
	t.Parallel()
	ca, strangers := testca.New(t, "ours"), testca.New(t, "ours")
	address, _ := serve(t, filesIn(testca.NewMount(t, ca.PEM, ca.Issue(t, "xds.tierkeeper"))))
	known := testca.NewMount(t, ca.PEM, ca.Issue(t, "envoy"))
	raw := func(version uint16, pairs ...testca.Pair) credentials.TransportCredentials {
		config := &tls.Config{MaxVersion: version, RootCAs: ca.Pool(), ServerName: "xds.tierkeeper"}
		for _, p := range pairs {
			config.Certificates = append(config.Certificates, p.TLS(t))
		}
		return credentials.NewTLS(config)
	}
	for name, tc := range map[string]struct {
		with   credentials.TransportCredentials
		dialed string // host of loopback
		served bool
	}{
		"a certificate of the CA":  {client(t, filesIn(known), "xds.tierkeeper"), "", true},
		"a server of another name": {client(t, filesIn(known), "feed.tierkeeper"), "", false},
		"the host is the name":     {client(t, filesIn(known), ""), "", false}, // the certificate is not for 127.0.0.1
		"a CA that the server's certificate is not of": {
			client(t, filesIn(testca.NewMount(t, strangers.PEM, ca.Issue(t, "envoy"))), "xds.tierkeeper"), "", false,
		},
		"a certificate of another CA": {
			client(t, filesIn(testca.NewMount(t, ca.PEM, strangers.Issue(t, "envoy"))), "xds.tierkeeper"), "", false,
		},
		"a certificate that is expired": {
			client(t, filesIn(testca.NewMount(t, ca.PEM, ca.IssueExpired(t, "envoy"))), "xds.tierkeeper"), "", false,
		},
		"no certificate": {raw(0), "", false},
		"TLS 1.2":        {raw(tls.VersionTLS12, ca.Issue(t, "envoy")), "", false},
		"no TLS":         {insecure.NewCredentials(), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// What the gRPC client says of a refusal depends on how far it came; that it is unavailable does not.
			if err := ask(t, dial(t, address, tc.with)); tc.served && err != nil || !tc.served && status.Code(err) != codes.Unavailable {
				t.Errorf("got %v, served should be %t", err, tc.served)
			}
		})
	}
}

func TestWithoutFilesThereIsNoTLS(t *testing.T) {
	t.Parallel()
	address, _ := serve(t, mtls.Files{})
	if err := ask(t, dial(t, address, client(t, mtls.Files{}, ""))); err != nil {
		t.Error(err)
	}
}

func TestCertificatesAreRenewedUnderOpenConnections(t *testing.T) {
	t.Parallel()
	before, after := testca.New(t, "before"), testca.New(t, "after")
	server, envoy := testca.NewMount(t, before.PEM, before.Issue(t, "xds")), testca.NewMount(t, before.PEM, before.Issue(t, "envoy"))
	address, log := serve(t, filesIn(server))
	creds := client(t, filesIn(envoy), "xds")
	open := dial(t, address, creds)
	if err := ask(t, open); err != nil {
		t.Fatal(err)
	}

	server.Rotate(t, after.PEM, after.Issue(t, "xds"))
	if err := ask(t, dial(t, address, creds)); status.Code(err) != codes.Unavailable {
		t.Errorf("a client that knows the former CA only: %v, want a refusal", err)
	}
	envoy.Rotate(t, after.PEM, after.Issue(t, "envoy"))
	if err := ask(t, dial(t, address, creds)); err != nil {
		t.Errorf("a client that was renewed too: %v", err)
	}
	if err := ask(t, open); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
	if n := strings.Count(log.String(), "certificates are renewed"); n != 1 {
		t.Errorf("the log tells of %d renewals, want 1:\n%s", n, log)
	}
}

func TestWhatDoesNotFitTogetherKeepsTheLastGood(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "ours")
	pair, next := ca.Issue(t, "xds"), ca.Issue(t, "xds")
	with := client(t, filesIn(testca.NewMount(t, ca.PEM, ca.Issue(t, "envoy"))), "xds")
	half := func(s string) string { return s[:len(s)/2] }
	for name, tc := range map[string]struct {
		ca   string
		pair testca.Pair
		want string // in the log
	}{
		"half a certificate":               {ca.PEM, testca.Pair{Cert: half(next.Cert), Key: next.Key}, "in the middle of a certificate"},
		"half a key":                       {ca.PEM, testca.Pair{Cert: next.Cert, Key: half(next.Key)}, "--key"},
		"a certificate without its key":    {ca.PEM, testca.Pair{Cert: next.Cert, Key: pair.Key}, "private key does not match public key"},
		"half a CA":                        {half(ca.PEM), next, "in the middle of a certificate"},
		"a second CA that is half written": {ca.PEM + half(ca.PEM), next, "in the middle of a certificate"},
		"an empty CA":                      {"", next, "no certificate"},
		"a key for a CA":                   {next.Key, next, "no certificate"},
		"a certificate that is none":       {ca.PEM, testca.Pair{Cert: strings.Replace(next.Cert, "MII", "AII", 1), Key: next.Key}, "--cert"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testca.NewMount(t, ca.PEM, pair)
			address, log := serve(t, filesIn(server))
			server.Rotate(t, tc.ca, tc.pair)
			for range 2 {
				conn := dial(t, address, with)
				if err := ask(t, conn); err != nil {
					t.Fatalf("the last good is gone: %v", err)
				}
			}
			if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, tc.want) {
				t.Errorf("the log does not tell once of %q:\n%s", tc.want, got)
			}
			for _, secret := range []string{pair.Key, next.Key} {
				if body := strings.Split(secret, "\n")[1]; strings.Contains(log.String(), body[:16]) {
					t.Error("the log quotes a private key")
				}
			}
			server.Rotate(t, ca.PEM, next)
			if got := shown(t, dialTLS(t, address, ca, ca.Issue(t, "envoy"))); got != next.TLS(t).Leaf.SerialNumber.String() {
				t.Errorf("after the files are mended certificate %s is shown, which is not the next", got)
			}
		})
	}
}

func dialTLS(t *testing.T, address string, ca *testca.CA, as testca.Pair) *tls.Conn {
	t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{
		RootCAs: ca.Pool(), ServerName: "xds", Certificates: []tls.Certificate{as.TLS(t)}, NextProtos: []string{"h2"},
	}}
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*tls.Conn) //nolint:forcetypeassert // It says so.
}

// shown is the number of the certificate that the server shows.
func shown(t *testing.T, conn *tls.Conn) string {
	t.Helper()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func TestWrongFilesAreNamedAtTheStart(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "ours")
	good := filesIn(testca.NewMount(t, ca.PEM, ca.Issue(t, "xds")))
	if err := good.Check(); err != nil {
		t.Errorf("good files: %v", err)
	}
	if err := (mtls.Files{}).Check(); err != nil {
		t.Errorf("no files: %v", err)
	}
	for name, tc := range map[string]struct {
		spoil func(*mtls.Files)
		want  string
	}{
		"no certificate":           {func(f *mtls.Files) { f.Cert = "" }, "--cert is missing: --cert, --key and --ca go together"},
		"no key":                   {func(f *mtls.Files) { f.Key = "" }, "--key is missing"},
		"no CA":                    {func(f *mtls.Files) { f.CA = "" }, "--ca is missing"},
		"a key that is not there":  {func(f *mtls.Files) { f.Key += ".old" }, "reading the file of --key"},
		"files in the wrong place": {func(f *mtls.Files) { f.CA = f.Key }, "the file of --ca: it holds something that is no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := good
			tc.spoil(&f)
			if err := f.Check(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Check: %v, want %q in it", err, tc.want)
			}
			if _, err := f.ServerCredentials(slog.New(slog.DiscardHandler)); err == nil {
				t.Error("there are credentials all the same")
			}
		})
	}
}

func TestWithoutCertificatesOnlyThisMachineIsServed(t *testing.T) {
	t.Parallel()
	for address, loopback := range map[string]bool{
		"127.0.0.1:8081": true, "127.9.9.9:0": true, "[::1]:8081": true, "localhost:8081": true, "LOCALHOST:1": true, "127.0.0.1": true, "[::1]": true,
		"[::ffff:127.0.0.1]:8081": true,
		"0.0.0.0:8081":            false, ":8081": false, "[::]:8081": false, "10.0.0.1:8081": false, "example.com:8081": false, "localhost.example.com:8081": false,
		"": false,
	} {
		if got := mtls.IsLoopback(address); got != loopback {
			t.Errorf("IsLoopback(%q) = %t", address, got)
		}
		err := mtls.Files{}.CheckAddress(address)
		if (err == nil) != loopback || err != nil && !strings.Contains(err.Error(), "--cert, --key and --ca") {
			t.Errorf("%q without certificates: %v", address, err)
		}
		if err := (mtls.Files{Cert: "c", Key: "k", CA: "a"}).CheckAddress(address); err != nil {
			t.Errorf("%q with certificates: %v", address, err)
		}
	}
}

// No content of a file makes it panic, nor appears in what it says.
func FuzzFiles(f *testing.F) {
	f.Add("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n", "")
	f.Add("", "", "-----BEGIN")
	f.Fuzz(func(t *testing.T, cert, key, ca string) {
		dir := t.TempDir()
		files := mtls.Files{Cert: filepath.Join(dir, "c"), Key: filepath.Join(dir, "k"), CA: filepath.Join(dir, "a")}
		for path, content := range map[string]string{files.Cert: cert, files.Key: key, files.CA: ca} {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := files.Check(); err != nil && len(key) > 60 && strings.Contains(err.Error(), key) {
			t.Errorf("the error quotes the key: %v", err)
		}
	})
}
