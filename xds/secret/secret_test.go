package secret_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tierkeeper/tierkeeper/internal/testca"
	"github.com/tierkeeper/tierkeeper/xds/secret"
)

func TestSystemRootsAreThoseOfSSLCertFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "roots.pem")
	t.Setenv("SSL_CERT_FILE", file)
	var k secret.Keeper
	if got := k.SystemRoots(); got != nil {
		t.Errorf("got %q from a file that is not there, want nothing", got)
	}
	one, other := testca.New(t, "one").PEM, testca.New(t, "other").PEM
	for _, tc := range []struct{ content, want string }{
		{one, one},
		{"# comment\n" + other + "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n" + one + "the end", other + one},
		{"", other + one},
		{"junk", other + one},
	} {
		if err := os.WriteFile(file, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := string(k.SystemRoots()); got != tc.want {
			t.Errorf("got %q from a file with %q, want %q", got, tc.content, tc.want)
		}
	}
}
