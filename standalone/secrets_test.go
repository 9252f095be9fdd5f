package standalone

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/internal/testca"
	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/secret"
)

// secured needs a certificate for a listener, and authorities and a key for a backend.
const secured = `
apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {name: main}
spec:
  listeners: [{name: https, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: site}]}}]
  backends:
  - name: provider
    endpoints: [{address: 10.0.0.7, port: 443}]
    tls: {sni: api.example.com, trust: CABundle, caBundleRef: {name: bundle, key: ca.crt}}
    credential: {header: Authorization, prefix: "Bearer ", secretKeyRef: {name: provider, key: token}}
  routes:
  - {name: chat, type: Backend, backendName: provider, protocol: OpenAIChatCompletions, resource: chat, matches: [{path: {type: Exact, value: /chat}}]}
  identity: {sources: [{header: x-api-key}]}
`

var (
	certificate = policy.SecretValue{Secret: inDefault("site"), Key: "tls.crt", Purpose: policy.ForCertificate}
	privateKey  = policy.SecretValue{Secret: inDefault("site"), Key: "tls.key", Purpose: policy.ForCertificate}
	authorities = policy.SecretValue{Secret: inDefault("bundle"), Key: "ca.crt", Purpose: policy.ForAuthorities}
	credential  = policy.SecretValue{Secret: inDefault("provider"), Key: "token", Purpose: policy.ForCredential}
)

func inDefault(name string) policy.Name { return policy.Name{Namespace: "default", Name: name} }

// secretOf is a Secret of a type, with values given as key, value, key, value.
func secretOf(name, kind string, values ...string) string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Secret\ntype: " + kind + "\nmetadata: {name: " + name + ", labels: {tierkeeper.io/secret: \"true\"}}\nstringData:\n")
	for pair := range slices.Chunk(values, 2) {
		b.WriteString("  " + pair[0] + ": " + strconv.Quote(pair[1]) + "\n")
	}
	return b.String()
}

// A desk is what a runner does with Secrets when it loads, without the rest of it.
type desk struct {
	dir    string
	loader manifest.Loader
	secret.Keeper
}

// load reads documents in the place of those read before, and returns what is said of them.
func (d *desk) load(t *testing.T, documents ...string) []string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, "all.yaml"), []byte(strings.Join(documents, "\n---\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	found := d.loader.Load(d.dir)
	table, verdicts := policy.Compile(found.Input)
	d.Update(table.Gateways(), found.Input.Usable, func(v policy.SecretValue) []byte { return found.Secrets[v.Secret].Value(v.Key) })
	return problems(table, &d.Keeper, &found, verdicts)
}

// holds is everything that is in use of what the tests name.
func (d *desk) holds() map[policy.SecretValue]string {
	all := map[policy.SecretValue]string{}
	other := credential
	other.Key = "other"
	for _, v := range []policy.SecretValue{certificate, privateKey, authorities, credential, other} {
		if content := d.Value(v); content != nil {
			all[v] = string(content)
		}
	}
	return all
}

func (d *desk) check(t *testing.T, want map[policy.SecretValue]string) {
	t.Helper()
	if diff := cmp.Diff(want, d.holds()); diff != "" {
		t.Errorf("in use (-want +got):\n%s", diff)
	}
}

func TestASecretInOrderIsInUseAtOnce(t *testing.T) {
	t.Parallel()
	d, ca := &desk{dir: t.TempDir()}, testca.New(t, "ca")
	for _, key := range []string{"sk-1", "sk-2"} {
		pair := ca.Issue(t, "site.example")
		d.load(t, secured, secretOf("site", "kubernetes.io/tls", "tls.crt", pair.Cert, "tls.key", pair.Key),
			secretOf("bundle", "Opaque", "ca.crt", ca.PEM), secretOf("provider", "Opaque", "token", key))
		d.check(t, map[policy.SecretValue]string{certificate: pair.Cert, privateKey: pair.Key, authorities: ca.PEM, credential: key})
	}
}

func TestARenewedSecretIsTold(t *testing.T) {
	t.Parallel()
	d, ca := &desk{dir: t.TempDir()}, testca.New(t, "ca")
	pair, another := ca.Issue(t, "site.example"), ca.Issue(t, "site.example")
	for _, step := range []struct {
		pair testca.Pair
		key  string
		want []string
	}{
		{pair, "sk-1", nil},
		{pair, "sk-2", []string{"default/provider"}},
		{another, "sk-2", []string{"default/site"}},
		{another, "sk-2", nil},
		{another, "not a key", nil},
	} {
		d.load(t, secured, secretOf("site", "kubernetes.io/tls", "tls.crt", step.pair.Cert, "tls.key", step.pair.Key),
			secretOf("bundle", "Opaque", "ca.crt", ca.PEM), secretOf("provider", "Opaque", "token", step.key))
		if diff := cmp.Diff(step.want, d.Renewed()); diff != "" {
			t.Errorf("with key %s (-want +got):\n%s", step.key, diff)
		}
	}
}

// Each of these takes the place of Secrets that were in order, and of none.
func TestASecretThatIsNotInOrderLeavesTheLastGoodInUse(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "ca")
	pair, another := ca.Issue(t, "site.example"), ca.Issue(t, "site.example")
	good := map[string]string{
		"site":     secretOf("site", "kubernetes.io/tls", "tls.crt", pair.Cert, "tls.key", pair.Key),
		"bundle":   secretOf("bundle", "Opaque", "ca.crt", ca.PEM),
		"provider": secretOf("provider", "Opaque", "token", "sk-1"),
	}
	of := map[string][]policy.SecretValue{"site": {certificate, privateKey}, "bundle": {authorities}, "provider": {credential}}
	all := map[policy.SecretValue]string{certificate: pair.Cert, privateKey: pair.Key, authorities: ca.PEM, credential: "sk-1"}
	unlabelled := func(document string) string {
		return strings.Replace(document, `labels: {tierkeeper.io/secret: "true"}`, "labels: {}", 1)
	}
	for name, tc := range map[string]struct{ secret, document string }{
		"no certificate":           {"site", ""},
		"a certificate not open":   {"site", unlabelled(good["site"])},
		"the key of another":       {"site", secretOf("site", "kubernetes.io/tls", "tls.crt", another.Cert, "tls.key", pair.Key)},
		"half a pair":              {"site", secretOf("site", "kubernetes.io/tls", "tls.crt", another.Cert)},
		"an empty half":            {"site", secretOf("site", "kubernetes.io/tls", "tls.crt", another.Cert, "tls.key", " ")},
		"a pair of another type":   {"site", secretOf("site", "Opaque", "tls.crt", another.Cert, "tls.key", another.Key)},
		"no authorities":           {"bundle", ""},
		"a bundle without its key": {"bundle", secretOf("bundle", "Opaque", "other", ca.PEM)},
		"a word for a bundle":      {"bundle", secretOf("bundle", "Opaque", "ca.crt", "sk-1")},
		"a bundle with a key":      {"bundle", secretOf("bundle", "Opaque", "ca.crt", ca.PEM+pair.Key)},
		"no credential":            {"provider", ""},
		"an empty credential":      {"provider", secretOf("provider", "Opaque", "token", "\n")},
		"a second header":          {"provider", secretOf("provider", "Opaque", "token", "sk-2\r\nx-admin: true")},
		"a bundle for a header":    {"provider", secretOf("provider", "Opaque", "token", ca.PEM)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			documents := []string{secured, tc.document}
			for other, document := range good {
				if other != tc.secret {
					documents = append(documents, document)
				}
			}
			d := &desk{dir: t.TempDir()}
			if said := d.load(t, secured, good["site"], good["bundle"], good["provider"]); said != nil {
				t.Fatalf("the good Secrets are not accepted: %v", said)
			}
			said := d.load(t, documents...)
			d.check(t, all)
			if len(said) != 1 || !strings.HasSuffix(said[0], " The last good one stays in use.") {
				t.Errorf("said %q, want one problem, and that the last good one stays", said)
			}

			d, rest := &desk{dir: t.TempDir()}, maps.Clone(all)
			for _, v := range of[tc.secret] {
				delete(rest, v)
			}
			said = d.load(t, documents...)
			d.check(t, rest)
			want := " Requests to the backend are answered 503."
			if tc.secret == "site" {
				want = " The listener is not served, unless it has another certificate."
			}
			if len(said) != 1 || !strings.HasSuffix(said[0], want) {
				t.Errorf("said %q, want one problem that ends with %q", said, want)
			}
		})
	}
}

func TestASecretThatNoGatewayNamesIsForgotten(t *testing.T) {
	t.Parallel()
	d, ca := &desk{dir: t.TempDir()}, testca.New(t, "ca")
	pair := ca.Issue(t, "site.example")
	site, bundle := secretOf("site", "kubernetes.io/tls", "tls.crt", pair.Cert, "tls.key", pair.Key), secretOf("bundle", "Opaque", "ca.crt", ca.PEM)
	d.load(t, secured, site, bundle, secretOf("provider", "Opaque", "token", "sk-1"))
	d.load(t, strings.Replace(secured, "name: provider, key: token", "name: provider, key: other", 1), site, bundle)
	d.load(t, secured, site, bundle)
	d.check(t, map[policy.SecretValue]string{certificate: pair.Cert, privateKey: pair.Key, authorities: ca.PEM})
	d.load(t, site, bundle)
	d.check(t, map[policy.SecretValue]string{})
}
