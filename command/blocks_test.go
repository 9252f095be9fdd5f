package command_test

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// adminOf is the admin address of a service at whose gateway the addresses are blocked, for a day.
func adminOf(t *testing.T, token string, addresses ...string) string {
	t.Helper()
	g := v1alpha1.QuotaGateway{}
	g.Namespace, g.Name = "edge", "main"
	g.Spec.Identity.Sources = []v1alpha1.KeySource{{Header: "x-api-key"}}
	g.Spec.AbuseProtection = &v1alpha1.AbuseProtection{MaxFailures: 1, BlockSeconds: 86400}
	table, _ := policy.Compile(policy.Input{Gateways: []*v1alpha1.QuotaGateway{&g}})
	l := ratelimit.New(memory.New(), []byte("secret"), ratelimit.WithFailures(memory.NewFailures()), atOneTime())
	l.SetTable(table)
	for _, address := range addresses {
		for range 2 {
			if _, err := l.Reserve(t.Context(), &descriptor.Reserve{Client: address, Gateway: "edge/main"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := httptest.NewServer(admin.Handler(l, token))
	t.Cleanup(s.Close)
	return s.URL
}

func TestBlocksListsAndLifts(t *testing.T) {
	t.Parallel()
	at := adminOf(t, "", "192.0.2.1", "2001:db8::1")
	text := mustRun(t, "blocks", "--admin", at)
	shape := `^GATEWAY +KIND +NAME +FAILURES +SINCE +LEFT +ID\n` +
		`edge/main +Address +192\.0\.2\.1 +2 +\S+Z +2[34]h\S+ +[0-9a-f]{50}\nedge/main +Address +2001:db8:: +2 +\S+Z +2[34]h\S+ +[0-9a-f]{50}\n$`
	if !regexp.MustCompile(shape).MatchString(text) {
		t.Errorf("got\n%s", text)
	}
	var blocks []ratelimit.Block
	if err := json.Unmarshal([]byte(mustRun(t, "blocks", "--admin", at, "-o", "json")), &blocks); err != nil || len(blocks) != 2 {
		t.Fatalf("blocks %v, error %v", blocks, err)
	}
	for _, b := range blocks {
		if got := mustRun(t, "blocks", "lift", "--admin", at, b.ID); got != "The block is lifted.\n" {
			t.Errorf("got %q", got)
		}
	}
	if got := mustRun(t, "blocks", "--admin", strings.TrimPrefix(at, "http://")); got != "Nobody is blocked.\n" {
		t.Errorf("got %q", got)
	}
	code, _, stderr := run(t, "blocks", "lift", blocks[0].ID, "--admin", at)
	if want := "Error: No block of this id is in force; it may be over. The command blocks lists those that are.\n"; code != 1 || stderr != want {
		t.Errorf("exit code %d and %q, want 1 and %q", code, stderr, want)
	}
}

func TestBlocksBringsTheToken(t *testing.T) {
	t.Parallel()
	const token = "a-token-that-nobody-guesses"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := adminOf(t, token)
	if got := mustRun(t, "blocks", "--admin", at, "--token-file", file); got != "Nobody is blocked.\n" {
		t.Errorf("got %q", got)
	}
	code, _, stderr := run(t, "blocks", "--admin", at)
	if want := "Error: The token is missing or wrong. Send it in the header Authorization: Bearer TOKEN.\n"; code != 1 || stderr != want {
		t.Errorf("exit code %d and %q, want 1 and %q", code, stderr, want)
	}
}

func TestBlocksSaysWhatItNeeds(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		says string
	}{
		"no address":         {[]string{"blocks"}, "Error: flag --admin is missing, and so is TIERKEEPER_ADMIN; either names the address that standalone, or ratelimit, prints behind \"Admin:\"\nRun \"tierkeeper blocks --help\" to see what it takes.\n"},
		"no address, lift":   {[]string{"blocks", "lift", "00"}, "Error: flag --admin is missing, and so is TIERKEEPER_ADMIN; either names the address that standalone, or ratelimit, prints behind \"Admin:\"\nRun \"tierkeeper blocks lift --help\" to see what it takes.\n"},
		"no id":              {[]string{"blocks", "lift", "--admin", "x"}, "Error: name one block by its id, which the command blocks lists\nRun \"tierkeeper blocks lift --help\" to see what it takes.\n"},
		"an unknown command": {[]string{"blocks", "remove"}, "Error: \"remove\" has no flag before it; the form is: tierkeeper blocks [--admin URL] [flags]\nRun \"tierkeeper blocks --help\" to see what it takes.\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if code, _, stderr := run(t, tc.args...); code != 2 || stderr != tc.says {
				t.Errorf("exit code %d and %q, want 2 and %q", code, stderr, tc.says)
			}
		})
	}
	help := mustRun(t, "blocks", "lift", "--help")
	if !strings.Contains(help, "\n  tierkeeper blocks lift --admin") {
		t.Errorf("want an example, got\n%s", help)
	}
}
