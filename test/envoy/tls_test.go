package envoy_test

import (
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/internal/testca"
)

// silent is for what is no news in a test, such as a client that does not like a certificate.
var silent = log.New(io.Discard, "", 0)

// A secured system is a gateway that speaks TLS to its clients and to its provider, each with an authority of its own.
type secured struct {
	*system
	sites, providers *testca.CA
	site             testca.Pair
	provider         *provider
}

func startSecured(t *testing.T) *secured {
	t.Helper()
	s := &secured{sites: testca.New(t, "sites"), providers: testca.New(t, "providers")}
	s.site = s.sites.Issue(t, site)
	s.provider = startProvider(t, s.providers.Issue(t, upstream))
	at := reservePort(t)
	s.system = prepare(t, map[string]string{
		"gateway.yaml": tlsGateway("main", []string{https("https", at, "", "site")}, overTLS("main", s.provider, trustsBundle, sendsKey)) + "---\n" + aPlan(),
		"site.yaml":    certificateOf("site", s.site),
		"bundle.yaml":  secretOf("bundle", "Opaque", "ca.crt", s.providers.PEM),
		"key.yaml":     secretOf("provider-key", "Opaque", "token", keyProvider+"\n"),
	})
	s.port, s.flags = at, []string{withoutDemo, "--port=0"}
	s.start(t)
	s.guest = guest(s.sites, at, site)
	return s
}

// at puts a request below the path of a backend.
func (r request) at(backend string) request {
	r.path = "/" + backend + orElse(r.path, chatPath)
	return r
}

func TestClientsAndProvidersAreSpokenToOverTLS(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	for version, v := range map[int]visitor{1: guest(s.sites, s.port, site, "http/1.1"), 2: guest(s.sites, s.port, site)} {
		req, err := chat(keyClient, prompt{}).at("main").to(t.Context(), v.base)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := v.Do(req)
		if err != nil {
			t.Fatalf("HTTP/%d: %v", version, err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.ProtoMajor != version || resp.TLS.Version < 0x0303 {
			t.Errorf("HTTP/%d: got %d by HTTP/%d over TLS %x", version, resp.StatusCode, resp.ProtoMajor, resp.TLS.Version)
		}
		if got := <-s.provider.versions; got != 2 {
			t.Errorf("the provider, which offers both, is spoken to by HTTP/%d", got)
		}
		got := s.provider.last(t)
		if diff := cmp.Diff([]string{"Bearer " + keyProvider}, got.Header["Authorization"]); diff != "" {
			t.Errorf("HTTP/%d: the provider's Authorization (-want +got):\n%s", version, diff)
		}
	}
	stranger := guest(s.providers, s.port, site)
	if _, err := stranger.fetch(t.Context(), chat(keyClient, prompt{}).at("main")); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("a client that trusts others: got %v", err)
	}
}

func TestAProviderThatSpeaksOnlyHTTP1IsServed(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "anybody")
	p := startProvider(t, ca.Issue(t, upstream), "http/1.1")
	s := startWithoutDemo(t, manifests(tlsGateway("main", []string{"name: http, port: 8080, protocol: HTTP"}, overTLS("main", p, trustsBundle, sendsKey)), aPlan(),
		secretOf("bundle", "Opaque", "ca.crt", ca.PEM), secretOf("provider-key", "Opaque", "token", keyProvider)))
	s.pass(t, chat(keyClient, prompt{stream: true}).at("main"))
	if got := <-p.versions; got != 1 {
		t.Errorf("spoken to by HTTP/%d", got)
	}
}

func TestEachHostNameAtAPortHasItsCertificate(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "sites")
	p := startProvider(t, ca.Issue(t, upstream))
	one, tenants := ca.Issue(t, "one.example"), ca.Issue(t, "*.tenants.example")
	secure, open := reservePort(t), reservePort(t)
	s := prepare(t, manifests(
		tlsGateway("main", []string{
			https("one", secure, "one.example", "one"), https("tenants", secure, "*.tenants.example", "tenants"),
			"name: open, port: " + open.String() + ", protocol: HTTP, hostname: one.example",
			"name: open-tenants, port: " + open.String() + `, protocol: HTTP, hostname: "*.tenants.example"`,
		}, overTLS("main", p, trustsBundle, sendsKey)),
		aPlan(), certificateOf("one", one), certificateOf("tenants", tenants),
		secretOf("bundle", "Opaque", "ca.crt", ca.PEM), secretOf("provider-key", "Opaque", "token", keyProvider)))
	s.port, s.flags = secure, []string{withoutDemo, "--port=0"}
	s.start(t)
	eventually(t, startMost, "the port without TLS is served", func() bool { return s.serves(open) })
	for host, want := range map[string]testca.Pair{"one.example": one, "a.tenants.example": tenants} {
		if !shows(t, secure, host, want) {
			t.Errorf("%s is shown the certificate of another", host)
		}
		if a, err := guest(ca, secure, host).fetch(t.Context(), chat(keyClient, prompt{}).at("main")); err != nil || a.status != http.StatusOK {
			t.Errorf("%s over TLS: got %d and %v", host, a.status, err)
		}
	}
	for _, host := range []string{"two.example", "tenants.example", "one.example.evil.example", ""} {
		if state, err := shake(t, secure, host); err == nil {
			t.Errorf("%q is given a connection and shown %v", host, state.PeerCertificates[0].DNSNames)
		}
	}
	for host, want := range map[string]int{
		"one.example": 200, "one.example:" + open.String(): 200, "ONE.example": 200, "a.tenants.example": 200,
		"two.example": 404, "tenants.example": 404, "127.0.0.1": 404,
	} {
		if got := s.statusFor(t, open, host); got != want {
			t.Errorf("%s without TLS: got %d, want %d", host, got, want)
		}
	}
}

// statusFor is the answer to a chat for a host at a port without TLS.
func (s *system) statusFor(t *testing.T, at port, host string) int {
	t.Helper()
	req, err := chat(keyClient, prompt{}).at("main").to(t.Context(), at.url())
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestAProviderThatDoesNotProveItsNameIsSentNothing(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "providers")
	impostors := map[string]*provider{
		"other-name": startProvider(t, ca.Issue(t, "other.example")),
		"unknown":    startProvider(t, testca.New(t, "providers").Issue(t, upstream)),
		"expired":    startProvider(t, ca.IssueExpired(t, upstream)),
		"common":     startProvider(t, ca.Issue(t, "sub."+upstream)),
	}
	good := startProvider(t, ca.Issue(t, upstream))
	backends := []string{overTLS("good", good, trustsBundle, sendsKey)}
	for name, p := range impostors {
		backends = append(backends, overTLS(name, p, trustsBundle, sendsKey))
	}
	s := startWithoutDemo(t, manifests(tlsGateway("main", []string{"name: http, port: 8080, protocol: HTTP"}, backends...), aPlan(),
		secretOf("bundle", "Opaque", "ca.crt", ca.PEM), secretOf("provider-key", "Opaque", "token", keyProvider)))
	s.pass(t, chat(keyClient, prompt{}).at("good"))
	for name, p := range impostors {
		s.unavailable(t, name)
		if got := p.Requests(); len(got) > 0 {
			t.Errorf("%s was sent %d requests", name, len(got))
		}
		eventually(t, soon, "the operator is told why "+name+" cannot be reached", func() bool {
			return len(s.entries(func(e entry) bool {
				return e["msg"] == "a backend cannot be reached" && e["backend"] == "default/main/"+name && strings.Contains(e["reason"], "CERTIFICATE_VERIFY_FAILED")
			})) > 0
		})
	}
}

// unavailable demands that requests to a backend are refused in the shape of their routes.
func (s *system) unavailable(t *testing.T, backend string) {
	t.Helper()
	for kind, r := range map[string]request{"OpenAI's": chat(keyClient, prompt{}), "Anthropic's": messages(keyClient, prompt{})} {
		a := s.send(t, r.at(backend))
		want := `"code":"provider_unavailable"`
		if kind == "Anthropic's" {
			want = `"type":"overloaded_error"`
		}
		if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, want) || a.header.Get("retry-after") != "2" {
			t.Errorf("%s: got %d and %s, want 503 in %s shape", backend, a.status, a.body, kind)
		}
	}
}

func TestTheProviderGetsTheGatewaysKeyAndNoClients(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "providers")
	p := startProvider(t, ca.Issue(t, upstream))
	credentials := map[string]string{
		"authorization":  `credential: {header: Authorization, prefix: "Bearer ", secretKeyRef: {name: provider-key, key: token}}`,
		"x-api-key":      `credential: {header: x-api-key, secretKeyRef: {name: provider-key, key: token}}`,
		"x-goog-api-key": `credential: {header: X-Goog-Api-Key, secretKeyRef: {name: provider-key, key: token}}`,
	}
	var backends []string
	for header, credential := range credentials {
		backends = append(backends, overTLS(header, p, trustsBundle, credential))
	}
	s := startWithoutDemo(t, manifests(tlsGateway("main", []string{"name: http, port: 8080, protocol: HTTP"}, backends...), aPlan(),
		secretOf("bundle", "Opaque", "ca.crt", ca.PEM), secretOf("provider-key", "Opaque", "token", " "+keyProvider+"\n")))
	inQuery := chatPath + "?key=" + url.QueryEscape(keyClient)
	everywhere := []string{"x-api-key: " + keyClient, "x-goog-api-key: " + keyClient}
	for name, r := range map[string]request{
		"Authorization":  chat(keyClient, prompt{}),
		"x-api-key":      chat("", prompt{}, everywhere[0]),
		"x-goog-api-key": chat("", prompt{}, everywhere[1]),
		"the query":      {path: inQuery, body: prompt{}.chat()},
		"the query, %":   {path: chatPath + "?%6bey=" + keyClient + "&key=" + keyClient, body: prompt{}.chat()},
		"everywhere":     {path: inQuery, key: keyClient, body: prompt{}.chat(), header: everywhere},
		"a preflight":    {path: inQuery, key: keyClient, method: http.MethodOptions, header: everywhere},
	} {
		for header := range credentials {
			want := map[string][]string{header: {keyProvider}}
			if header == "authorization" {
				want[header] = []string{"Bearer " + keyProvider}
			}
			if r.method == http.MethodOptions {
				want = map[string][]string{}
			}
			s.pass(t, r.at(header))
			sent, got := p.last(t), map[string][]string{}
			for name := range credentials {
				if values := sent.Header.Values(name); len(values) > 0 {
					got[name] = values
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("key in %s, credential in %s: what the provider got (-want +got):\n%s", name, header, diff)
			}
			if strings.Contains(sent.RawQuery+jsonOf(sent.Header), keyClient) {
				t.Errorf("key in %s: it reaches the provider: ?%s %v", name, sent.RawQuery, sent.Header)
			}
		}
	}
}

// Not parallel: the program inherits the environment.
func TestTheSystemsAuthoritiesAreThoseOfSSLCertFile(t *testing.T) {
	envoyBinary(t)
	ca := testca.New(t, "providers")
	files := t.TempDir()
	if err := os.WriteFile(files+"/roots.pem", []byte(ca.PEM), 0o600); err != nil {
		t.Fatal(err)
	}
	good, bad := startProvider(t, ca.Issue(t, upstream)), startProvider(t, testca.New(t, "others").Issue(t, upstream))
	run := func(roots string) *system {
		t.Setenv("SSL_CERT_FILE", files+"/"+roots)
		s := startWithoutDemo(t, manifests(tlsGateway("main", []string{"name: http, port: 8080, protocol: HTTP"}, overTLS("good", good, trustsSystem, sendsKey), overTLS("bad", bad, trustsSystem, sendsKey)),
			aPlan(), secretOf("provider-key", "Opaque", "token", keyProvider)))
		return s
	}
	s := run("roots.pem")
	s.pass(t, chat(keyClient, prompt{}).at("good"))
	s.unavailable(t, "bad")
	s = run("nothing.pem")
	s.unavailable(t, "good")
	if !strings.Contains(s.Stderr.String(), "name a file by SSL_CERT_FILE") {
		t.Error("nobody is told that there are no certificates of authorities")
	}
}
