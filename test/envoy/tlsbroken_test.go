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

func TestABrokenSecretCostsWhatNeedsItAndIsNamed(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "anybody")
	p := startProvider(t, ca.Issue(t, upstream))
	certificates, bundles, credentials := brokenSecrets(t, ca)
	all := slices.Concat(certificates, bundles, credentials)

	mainPort, otherPort := reservePort(t), reservePort(t)
	fine := overTLS("fine", p, trustsBundle, sendsKey)
	ports, field := map[string]*port{}, map[string]string{}
	listeners, backends := []string{"name: http, port: " + mainPort.String() + ", protocol: HTTP"}, []string{fine}
	for _, b := range certificates {
		ports[b.name] = reservePort(t)
		listeners = append(listeners, https(b.name, ports[b.name], "", b.name))
		field[b.name] = fmt.Sprintf("spec.listeners[name=%s].tls.certificateRefs[name=%[1]s].%s", b.name, b.field)
	}
	for _, b := range bundles {
		backends = append(backends, overTLS(b.name, p, strings.Replace(trustsBundle, "bundle, key: ca.crt", b.name+", key: value", 1), sendsKey))
		field[b.name] = fmt.Sprintf("spec.backends[name=%s].tls.caBundleRef.%s", b.name, b.field)
	}
	for _, b := range credentials {
		backends = append(backends, overTLS(b.name, p, trustsBundle, strings.Replace(sendsKey, "provider-key, key: token", b.name+", key: value", 1)))
		field[b.name] = fmt.Sprintf("spec.backends[name=%s].credential.secretKeyRef.%s", b.name, b.field)
	}
	s := prepare(t, manifests(tlsGateway("main", listeners, backends...),
		tlsGateway("other", []string{"name: http, port: " + otherPort.String() + ", protocol: HTTP"}, fine),
		aPlan(), secretOf("bundle", "Opaque", "ca.crt", ca.PEM), secretOf("provider-key", "Opaque", "token", keyProvider)))
	s.port, s.flags = mainPort, []string{withoutDemo, "--port=0"}
	s.replace(t, all, func(b broken) string { return b.bad })
	s.start(t)
	eventually(t, startMost, "the other gateway serves", func() bool { return s.serves(otherPort) })
	verdict := func(b broken, rest string) {
		t.Helper()
		eventually(t, soon, "the verdict on "+b.name+" says:"+rest, func() bool {
			for line := range strings.Lines(s.stdout.String()) {
				if strings.Contains(line, "REJECTED") && strings.Contains(line, "QuotaGateway default/main: "+field[b.name]+": "+b.reason+": ") && strings.HasSuffix(line, rest+"\n") {
					return true
				}
			}
			return false
		})
	}
	serves := func(work bool) {
		t.Helper()
		s.pass(t, chat(keyClient, prompt{}).at("fine"))
		if a, err := fetch(t.Context(), otherPort.url(), chat(keyClient, prompt{}).at("fine")); err != nil || a.status != http.StatusOK {
			t.Errorf("the other gateway: got %d and %v", a.status, err)
		}
		for _, b := range certificates {
			if _, err := shake(t, ports[b.name], site); (err == nil) != work {
				t.Errorf("listener %s: got %v, want a connection: %t", b.name, err, work)
			}
		}
		for _, b := range slices.Concat(bundles, credentials) {
			if work {
				s.pass(t, chat(keyClient, prompt{}).at(b.name))
				continue
			}
			s.unavailable(t, b.name)
		}
	}

	// They were never good.
	for _, b := range certificates {
		verdict(b, " The listener is not served, unless it has another certificate.")
	}
	for _, b := range slices.Concat(bundles, credentials) {
		verdict(b, " Requests to the backend are answered 503.")
	}
	serves(false)
	out, err := exec.CommandContext(t.Context(), binary, "compile", "-f", s.manifests).CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("compile ends with %v, want exit code 1", err)
	}
	for _, b := range all {
		if want := b.reason + ": " + field[b.name] + ": "; !strings.Contains(string(out), want) {
			t.Errorf("compile does not say %q:\n%s", want, out)
		}
	}

	// Once they are good all is served.
	s.replace(t, all, func(b broken) string { return b.good })
	for _, b := range certificates {
		eventually(t, soon, "listener "+b.name+" is served", func() bool { _, err := shake(t, ports[b.name], site); return err == nil })
	}
	for _, b := range slices.Concat(bundles, credentials) {
		eventually(t, soon, "backend "+b.name+" is served", func() bool {
			return s.send(t, chat(keyClient, prompt{}).at(b.name)).status == http.StatusOK
		})
	}

	// And they stay so when they break again.
	s.replace(t, all, func(b broken) string { return b.bad })
	for _, b := range all {
		verdict(b, " The last good one stays in use.")
	}
	serves(true)
	for _, sent := range p.Requests() {
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
