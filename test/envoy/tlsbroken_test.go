package envoy_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/internal/testca"
)

// A broken Secret is named for one purpose, and not fit for it.
type broken struct {
	name   string
	bad    string // the Secret; empty: there is none
	good   string
	reason string
	field  string // relative to the reference
}

// brokenSecrets breaks what a listener, the trust in a backend and a credential need, in each way there is.
func brokenSecrets(t *testing.T, ca *testca.CA) (certificates, bundles, credentials []broken) {
	t.Helper()
	unlabelled := func(document string) string {
		return strings.Replace(document, `labels: {tierkeeper.io/secret: "true"}`, "labels: {}", 1)
	}
	pair, another := ca.Issue(t, site), ca.Issue(t, site)
	for name, of := range map[string]struct{ bad, reason string }{
		"missing":    {"", "SecretNotFound"},
		"empty":      {secretOf("cert-empty", "kubernetes.io/tls", "tls.crt", "", "tls.key", ""), "CertificateInvalid"},
		"half":       {secretOf("cert-half", "kubernetes.io/tls", "tls.crt", pair.Cert), "CertificateInvalid"},
		"of-type":    {secretOf("cert-of-type", "Opaque", "tls.crt", pair.Cert, "tls.key", pair.Key), "CertificateInvalid"},
		"mismatched": {secretOf("cert-mismatched", "kubernetes.io/tls", "tls.crt", pair.Cert, "tls.key", another.Key), "CertificateInvalid"},
		"unlabelled": {unlabelled(certificateOf("cert-unlabelled", pair)), "SecretNotLabelled"},
	} {
		certificates = append(certificates, broken{"cert-" + name, of.bad, certificateOf("cert-"+name, pair), of.reason, "name"})
	}
	for name, of := range map[string]struct{ bad, reason, field string }{
		"missing":    {"", "SecretNotFound", "name"},
		"other-key":  {secretOf("bundle-other-key", "Opaque", "other", ca.PEM), "SecretNotFound", "key"},
		"empty":      {secretOf("bundle-empty", "Opaque", "value", " \n"), "KeyEmpty", "key"},
		"a-header":   {secretOf("bundle-a-header", "Opaque", "value", strings.Replace(ca.PEM, "\n", "\nComment: mine\n\n", 1)), "CertificateInvalid", "key"},
		"a-word":     {secretOf("bundle-a-word", "Opaque", "value", "word"), "CertificateInvalid", "key"},
		"unlabelled": {unlabelled(secretOf("bundle-unlabelled", "Opaque", "value", ca.PEM)), "SecretNotLabelled", "name"},
	} {
		bundles = append(bundles, broken{"bundle-" + name, of.bad, secretOf("bundle-"+name, "Opaque", "value", ca.PEM), of.reason, of.field})
	}
	for name, of := range map[string]struct{ bad, reason, field string }{
		"missing":    {"", "SecretNotFound", "name"},
		"other-key":  {secretOf("key-other-key", "Opaque", "other", keyProvider), "SecretNotFound", "key"},
		"empty":      {secretOf("key-empty", "Opaque", "value", ""), "KeyEmpty", "key"},
		"two-lines":  {secretOf("key-two-lines", "Opaque", "value", "sk\r\nx-injected: yes"), "KeyInvalid", "key"},
		"a-bundle":   {secretOf("key-a-bundle", "Opaque", "value", ca.PEM), "KeyInvalid", "key"},
		"unlabelled": {unlabelled(secretOf("key-unlabelled", "Opaque", "value", keyProvider)), "SecretNotLabelled", "name"},
	} {
		credentials = append(credentials, broken{"key-" + name, of.bad, secretOf("key-"+name, "Opaque", "value", keyProvider), of.reason, of.field})
	}
	return certificates, bundles, credentials
}

// A needy system has a listener or a backend for each broken Secret, and a gateway beside it that needs none of them.
type needy struct {
	*system
	provider                           *provider
	certificates, bundles, credentials []broken
	other                              port              // of the other gateway
	ports                              map[string]port   // of listeners, by what is broken for them
	field                              map[string]string // that a verdict must name, by what is broken
}

func startNeedy(t *testing.T) *needy {
	t.Helper()
	ca := testca.New(t, "anybody")
	s := &needy{provider: startProvider(t, ca.Issue(t, upstream)), other: reservePort(t), ports: map[string]port{}, field: map[string]string{}}
	s.certificates, s.bundles, s.credentials = brokenSecrets(t, ca)
	at := reservePort(t)
	fine := overTLS("fine", s.provider, trustsBundle, sendsKey)
	listeners, backends := []string{"name: http, port: " + at.String() + ", protocol: HTTP"}, []string{fine}
	for _, b := range s.certificates {
		s.ports[b.name] = reservePort(t)
		listeners = append(listeners, https(b.name, s.ports[b.name], "", b.name))
		s.field[b.name] = fmt.Sprintf("spec.listeners[name=%s].tls.certificateRefs[name=%[1]s].%s", b.name, b.field)
	}
	for _, b := range s.bundles {
		backends = append(backends, overTLS(b.name, s.provider, strings.Replace(trustsBundle, "bundle, key: ca.crt", b.name+", key: value", 1), sendsKey))
		s.field[b.name] = fmt.Sprintf("spec.backends[name=%s].tls.caBundleRef.%s", b.name, b.field)
	}
	for _, b := range s.credentials {
		backends = append(backends, overTLS(b.name, s.provider, trustsBundle, strings.Replace(sendsKey, "provider-key, key: token", b.name+", key: value", 1)))
		s.field[b.name] = fmt.Sprintf("spec.backends[name=%s].credential.secretKeyRef.%s", b.name, b.field)
	}
	s.system = prepare(t, manifests(tlsGateway("main", listeners, backends...),
		tlsGateway("other", []string{"name: http, port: " + s.other.String() + ", protocol: HTTP"}, fine),
		aPlan(), secretOf("bundle", "Opaque", "ca.crt", ca.PEM), secretOf("provider-key", "Opaque", "token", keyProvider)))
	s.port, s.flags = at, []string{withoutDemo, "--port=0"}
	s.replace(t, s.all(), func(b broken) string { return b.bad })
	s.start(t)
	eventually(t, startMost, "the other gateway serves", func() bool { return s.serves(s.other) })
	return s
}

func (s *needy) all() []broken { return slices.Concat(s.certificates, s.ofBackends()) }

func (s *needy) ofBackends() []broken { return slices.Concat(s.bundles, s.credentials) }

// awaitVerdict waits until it is said what is broken, and what becomes of it.
func (s *needy) awaitVerdict(t *testing.T, b broken, rest string) {
	t.Helper()
	eventually(t, soon, "the verdict on "+b.name+" says:"+rest, func() bool {
		for line := range strings.Lines(s.Stdout.String()) {
			if strings.Contains(line, "REJECTED") && strings.Contains(line, "QuotaGateway default/main: "+s.field[b.name]+": "+b.reason+": ") && strings.HasSuffix(line, rest+"\n") {
				return true
			}
		}
		return false
	})
}

// checkServes demands that what needs none of the Secrets works, and what needs one works or does not.
func (s *needy) checkServes(t *testing.T, work bool) {
	t.Helper()
	s.pass(t, chat(keyClient, prompt{}).at("fine"))
	if a, err := fetch(t.Context(), s.other.url(), chat(keyClient, prompt{}).at("fine")); err != nil || a.status != http.StatusOK {
		t.Errorf("the other gateway: got %d and %v", a.status, err)
	}
	for _, b := range s.certificates {
		if _, err := shake(t, s.ports[b.name], site); (err == nil) != work {
			t.Errorf("listener %s: got %v, want a connection: %t", b.name, err, work)
		}
	}
	for _, b := range s.ofBackends() {
		if work {
			s.pass(t, chat(keyClient, prompt{}).at(b.name))
			continue
		}
		s.unavailable(t, b.name)
	}
}

// checkCompile demands that compile names all that is broken.
func (s *needy) checkCompile(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, "compile", "-f", s.manifests).CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("compile ends with %v, want exit code 1", err)
	}
	for _, b := range s.all() {
		if want := b.reason + ": " + s.field[b.name] + ": "; !strings.Contains(string(out), want) {
			t.Errorf("compile does not say %q:\n%s", want, out)
		}
	}
}

func TestABrokenSecretCostsWhatNeedsItAndIsNamed(t *testing.T) {
	t.Parallel()
	s := startNeedy(t)

	// They were never good.
	for _, b := range s.certificates {
		s.awaitVerdict(t, b, " The listener is not served, unless it has another certificate.")
	}
	for _, b := range s.ofBackends() {
		s.awaitVerdict(t, b, " Requests to the backend are answered 503.")
	}
	s.checkServes(t, false)
	s.checkCompile(t)

	// Once they are good all is served.
	s.replace(t, s.all(), func(b broken) string { return b.good })
	for _, b := range s.certificates {
		eventually(t, soon, "listener "+b.name+" is served", func() bool { _, err := shake(t, s.ports[b.name], site); return err == nil })
	}
	for _, b := range s.ofBackends() {
		eventually(t, soon, "backend "+b.name+" is served", func() bool {
			return s.send(t, chat(keyClient, prompt{}).at(b.name)).status == http.StatusOK
		})
	}

	// And they stay so when they break again.
	s.replace(t, s.all(), func(b broken) string { return b.bad })
	for _, b := range s.all() {
		s.awaitVerdict(t, b, " The last good one stays in use.")
	}
	s.checkServes(t, true)
	for _, sent := range s.provider.Requests() {
		if got := sent.Header.Get("Authorization"); got != "Bearer "+keyProvider || sent.Header.Get("x-injected") != "" {
			t.Fatalf("the provider got %v", sent.Header)
		}
	}
}

// replace writes each Secret into a file of its own, or deletes the file of one that is empty.
func (s *system) replace(t *testing.T, all []broken, version func(broken) string) {
	t.Helper()
	for _, b := range all {
		if content := version(b); content != "" {
			s.write(t, b.name+".yaml", content)
		} else if err := os.Remove(filepath.Join(s.manifests, b.name+".yaml")); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}
