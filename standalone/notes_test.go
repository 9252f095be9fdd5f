package standalone

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/internal/testca"
	"github.com/tierkeeper/tierkeeper/policy"
)

func TestNotesNameWhatIsHardlyMeant(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "ca")
	const (
		main = "QuotaGateway default/main: "
		host = "port: 8443, hostname: api.example"
	)
	for name, tc := range map[string]struct {
		old, new string // in the manifest
		pair     testca.Pair
		want     []string
	}{
		"nothing":                  {"", "", ca.Issue(t, "site.example"), nil},
		"the name of the listener": {"port: 8443", host, ca.Issue(t, "api.example"), nil},
		"a wildcard for it":        {"port: 8443", host, ca.Issue(t, "*.example"), nil},
		"names below the listener": {"port: 8443", `port: 8443, hostname: "*.example"`, ca.Issue(t, "api.example"), nil},
		"another name": {
			"port: 8443", host, ca.Issue(t, "site.example"),
			[]string{main + "listener https serves api.example, and it has no certificate for that name"},
		},
		"a certificate that ended": {
			"", "", ca.IssueExpired(t, "site.example"),
			[]string{main + "the certificate in Secret default/site, of listener https, ended on 2021-01-01"},
		},
		"a prefix without a space": {
			`"Bearer "`, `"Bearer"`, ca.Issue(t, "site.example"),
			[]string{main + `the provider of backend provider gets "BearerKEY" in authorization; end the prefix with a space`},
		},
		"no model": {
			"  identity:", "  unknownModels: {action: Deny}\n  identity:", ca.Issue(t, "site.example"),
			[]string{main + "no ModelLimit counts here, by spec.modelLimitSelector or because there is none, and spec.unknownModels is Deny: every model is answered 404"},
		},
		"no prefix": {
			"header: x-api-key", "header: Authorization", ca.Issue(t, "site.example"),
			[]string{main + `clients send "Bearer KEY" in Authorization, and without prefix: "Bearer " in spec.identity.sources all of it is taken for the key`},
		},
		"a pool without a tier": {
			"port: 443", "port: 443}, {address: 10.0.0.8, port: 443, pool: big", ca.Issue(t, "site.example"),
			[]string{main + "spec.backends[name=provider].endpoints[address=10.0.0.8,port=443].pool: No RateLimitTier has backendPool: big, so this endpoint serves nobody."},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &desk{dir: t.TempDir()}
			d.load(t, strings.ReplaceAll(secured, tc.old, tc.new), secretOf("site", "kubernetes.io/tls", "tls.crt", tc.pair.Cert, "tls.key", tc.pair.Key),
				secretOf("bundle", "Opaque", "ca.crt", ca.PEM), secretOf("provider", "Opaque", "token", "sk-1"))
			found := d.loader.Load(filepath.Join(d.dir, "all.yaml"))
			table, verdicts := policy.Compile(found.Input)
			if diff := cmp.Diff(tc.want, notes(table, &d.Keeper, &found.Input, verdicts, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
		})
	}
}
