package standalone

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tierkeeper/tierkeeper/internal/testca"
	"github.com/tierkeeper/tierkeeper/mtls"
	"github.com/tierkeeper/tierkeeper/policy"
)

func TestTheServiceSaysWhenItCanBeAsked(t *testing.T) {
	t.Parallel()
	e, err := enforceAlone(&Common{DataDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	s, err := listen(t.Context(), net.JoinHostPort(loopback, "0"), mtls.Files{}, slog.New(slog.DiscardHandler), e.register)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.serve() }()
	t.Cleanup(s.stop)
	conn, err := grpc.NewClient(s.listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	check := func(when string, want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		answer, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		if err != nil || answer.GetStatus() != want {
			t.Errorf("%s it says %v, %v, want %v", when, answer.GetStatus(), err, want)
		}
		w := httptest.NewRecorder()
		e.ready(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
		if (w.Code == http.StatusOK) != (want == healthv1.HealthCheckResponse_SERVING) {
			t.Errorf("%s a kubelet is answered %d", when, w.Code)
		}
	}
	table, _ := policy.Compile(policy.Input{})
	check("before it knows any limits", healthv1.HealthCheckResponse_NOT_SERVING)
	e.obey(table)
	check("once it does", healthv1.HealthCheckResponse_SERVING)
	e.leave()
	check("before it goes", healthv1.HealthCheckResponse_NOT_SERVING)
	e.obey(table)
	check("after an edit at that time", healthv1.HealthCheckResponse_NOT_SERVING)
}

// A port scan, or a client that hangs, does not keep the process from ending.
func TestWhoSaysNothingDoesNotHoldUpAStop(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "ours")
	mount := testca.NewMount(t, ca.PEM, ca.Issue(t, "service"))
	for name, files := range map[string]mtls.Files{
		"without TLS": {},
		"with TLS":    {Cert: mount.Cert(), Key: mount.Key(), CA: mount.CA()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := listen(t.Context(), net.JoinHostPort(loopback, "0"), files, slog.New(slog.DiscardHandler), func(*grpc.Server) {})
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- s.serve() }()
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			go s.stop()
			select {
			case err := <-served:
				if err != nil && !strings.Contains(err.Error(), grpc.ErrServerStopped.Error()) { // It may be stopped before it serves.
					t.Error(err)
				}
			case <-time.After(30 * time.Second):
				t.Error("the service does not stop")
			}
		})
	}
}

func TestAServiceThatIsNotThereIsTold(t *testing.T) {
	t.Parallel()
	s, err := listen(t.Context(), net.JoinHostPort(loopback, "0"), mtls.Files{}, slog.New(slog.DiscardHandler), func(g *grpc.Server) { healthv1.RegisterHealthServer(g, health.NewServer()) })
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.serve() }()
	t.Cleanup(s.stop)
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx     context.Context //nolint:containedctx // Of the case.
		address string
		wait    time.Duration
		want    bool
	}{
		"there":                 {t.Context(), s.listener.Addr().String(), time.Minute, false},
		"not there":             {t.Context(), "127.0.0.1:1", 10 * time.Millisecond, true},
		"not there at the stop": {stopped, "127.0.0.1:1", time.Minute, false},
	} {
		var told strings.Builder
		tellUnlessServing(tc.ctx, tc.address, tc.wait, slog.New(slog.NewTextHandler(&told, nil)))
		if got := strings.Contains(told.String(), "the rate-limit service does not answer"); got != tc.want {
			t.Errorf("%s: want told %t, got %q", name, tc.want, told.String())
		}
	}
}

func TestTheLeaseKeyOutlivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := loadLeaseKeys("", dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadLeaseKeys("", dir)
	if err != nil {
		t.Fatal(err)
	}
	if string(first.signing) != string(again.signing) || first.former != nil || again.former != nil {
		t.Error("after a restart the key is another")
	}
	if info, err := os.Stat(filepath.Join(dir, leaseKeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v, want one that others cannot read", info, err)
	}
	if other, err := loadLeaseKeys("", t.TempDir()); err != nil || string(other.signing) == string(first.signing) {
		t.Errorf("another directory has the same key, or %v", err)
	}
	if _, err := loadLeaseKeys(filepath.Join(dir, "missing"), dir); err == nil {
		t.Error("a file that is named and missing is made")
	}
}

func TestALeaseKeyFileHasOneKeyOrTwo(t *testing.T) {
	t.Parallel()
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 32)
	for name, tc := range map[string]struct {
		content         string
		signing, former string
		says            string
	}{
		"one":              {a, a, "", ""},
		"one line":         {a + "\n", a, "", ""},
		"two":              {b + "\n" + a + "\n", b, a, ""},
		"two, of Windows":  {b + "\r\n" + a + "\r\n", b, a, ""},
		"none":             {"\n", "", "", "it has 0 lines; it must have one, or two while a key is being replaced: the new key first, then the old one"},
		"three":            {a + "\n" + a + "\n" + a, "", "", "it has 3 lines; it must have one, or two while a key is being replaced: the new key first, then the old one"},
		"one that is weak": {a + "\nhunter2\n", "", "", "line 2 is shorter than 32 characters; make a key with: openssl rand -hex 32"},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := loadLeaseKeys(path, "")
		switch {
		case tc.says != "":
			if want := "reading the key that signs leases from " + path + ": " + tc.says; err == nil || err.Error() != want {
				t.Errorf("%s: got error %v, want %s", name, err, want)
			}
		case err != nil || string(keys.signing) != tc.signing || string(keys.former) != tc.former:
			t.Errorf("%s: got keys %q, %q and error %v, want %q, %q", name, keys.signing, keys.former, err, tc.signing, tc.former)
		}
	}
}

// Calls carry API keys and are not encrypted.
func TestTheServiceStaysOnLoopback(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]policy.Endpoint{
		"127.0.0.1:8081": {Address: "127.0.0.1", Port: 8081},
		"127.9.9.9:0":    {Address: "127.9.9.9"},
		"[::1]:8081":     {Address: "::1", Port: 8081},
		"localhost:8081": {Address: "localhost", Port: 8081},
	} {
		got, err := onLoopback(address)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", address, err, diff)
		}
	}
	for _, address := range []string{"0.0.0.0:8081", ":8081", "[::]:8081", "10.0.0.1:8081", "example.com:8081", "localhost.example.com:8081", "8081", "127.0.0.1"} {
		if at, err := onLoopback(address); err == nil {
			t.Errorf("%s is taken for %v on loopback", address, at)
		}
	}
}
