package envoy_test

import (
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tierkeeper/tierkeeper/internal/testca"
)

// Keys at a provider that are like nothing else.
const (
	liveOwn  = "sk-live-prov/+Hd83k6Tb1w5ZyNq"
	liveNext = "sk-live-next/+Rm29x7Fc4g8LpJs"
)

// keyLines are those of a private key that nothing else has.
func keyLines(pairs ...testca.Pair) []string {
	var all []string
	for _, p := range pairs {
		for line := range strings.Lines(p.Key) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-") && len(line) > 16 {
				all = append(all, line)
			}
		}
	}
	return all
}

// What the gateway itself must keep secret: its private keys and its keys at providers.
func TestNoSecretOfAGatewayIsWrittenAnywhere(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	next, other := s.sites.Issue(t, site), s.sites.Issue(t, site)
	keys := append(keyLines(s.site, next, other), liveOwn, liveNext, keyProvider)
	ask := func(want string) {
		t.Helper()
		eventually(t, soon, "the provider gets "+want, func() bool {
			s.pass(t, chat(keyClient, prompt{}).at("main"))
			return s.provider.last(t).Header.Get("Authorization") == "Bearer "+want
		})
	}
	ask(keyProvider)
	s.write(t, "key.yaml", secretOf("provider-key", "Opaque", "token", liveOwn))
	ask(liveOwn)
	s.write(t, "site.yaml", certificateOf("site", next))
	eventually(t, soon, "the next certificate is shown", func() bool { return shows(t, s.port, site, next) })
	for _, header := range []string{"x-demo-status: 503", "x-demo-reset: on", "x-demo-status: 401"} {
		s.send(t, chat(keyClient, prompt{}, header).at("main"))
	}
	s.provider.identify(t, testca.New(t, "another").Issue(t, upstream))
	s.provider.hangsUp.Store(true)
	eventually(t, soon, "the provider is not believed", func() bool {
		return strings.Contains(s.send(t, chat(keyClient, prompt{}).at("main")).body, `"code":"provider_unavailable"`)
	})

	// What is said of wrong Secrets quotes nothing of them.
	for name, content := range map[string]string{
		"site.yaml":     secretOf("site", "kubernetes.io/tls", "tls.crt", next.Cert, "tls.key", other.Key),
		"key.yaml":      secretOf("provider-key", "Opaque", "token", liveNext+"\n"+liveNext),
		"bundle.yaml":   secretOf("bundle", "Opaque", "ca.crt", next.Key+liveNext),
		"broken.yaml":   certificateOf("broken", other) + "  oops\n",
		"misspelt.yaml": strings.Replace(secretOf("misspelt", "Opaque", "token", liveNext), "stringData", "data", 1),
	} {
		s.write(t, name, content)
	}
	for _, problem := range []string{"CertificateInvalid: Secret site", "KeyInvalid: Key token", "CertificateInvalid: Key ca.crt", "broken.yaml", "misspelt.yaml"} {
		eventually(t, soon, problem+" is told", func() bool { return strings.Contains(s.Stdout.String(), problem) })
	}
	places := map[string]string{"/metrics": s.metrics(t)}
	s.administration(t, places)
	for _, flags := range [][]string{{}, {"--envoy"}, {"--envoy", "-o", "yaml"}, {"--table"}} {
		out, _ := exec.CommandContext(t.Context(), binary, slices.Concat([]string{"compile", "-f", s.manifests}, flags)...).CombinedOutput() // it ends with 1
		places["compile "+strings.Join(flags, " ")] = string(out)
	}
	s.stop(t, syscall.SIGTERM)
	places["stdout"], places["stderr"] = s.Stdout.String(), s.Stderr.String()
	files(t, s.dataDir, places)
	for place, proof := range map[string]string{
		"/config_dump": "credential/default/provider-key/token", "/certs": site, "compile --envoy -o yaml": "inlineString: REDACTED",
		"accepted.json": "provider-key", "stdout": "default/main", "stderr": "default/client",
	} {
		if !strings.Contains(places[place], proof) {
			t.Errorf("%s does not hold what it should: %s", place, places[place])
		}
	}
	if found := leaksOf(keys, places); found != nil {
		t.Errorf("secrets are written: %v", found)
	}
	if found := leaksOf(keyLines(s.site), map[string]string{"a place": "tls.key: " + s.site.Key}); len(found) == 0 {
		t.Error("a private key would not be found")
	}
}
