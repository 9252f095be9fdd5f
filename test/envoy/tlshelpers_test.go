package envoy_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/demo"
	"github.com/tierkeeper/tierkeeper/internal/testca"
)

const (
	site     = "api.site.example"        // what clients ask the gateway for
	upstream = "models.provider.example" // what the gateway asks a provider for

	keyClient   = "key-of-the-client"
	keyProvider = "sk-of-the-gateway"
)

// A provider is a demo upstream in this process that speaks TLS, and remembers what came as it came.
type provider struct {
	*demo.Provider
	port        int
	certificate atomic.Pointer[tls.Certificate] // of new connections
	hangsUp     atomic.Bool                     // after each answer
	handshakes  atomic.Int64
	goOn        chan struct{} // closed: tokens of streams with a delay come, which wait for it before
	versions    chan int      // of HTTP, by request
}

func startProvider(t *testing.T, pair testca.Pair, protocols ...string) *provider {
	t.Helper()
	p := &provider{versions: make(chan int, 10_000), goOn: make(chan struct{})}
	p.Provider = demo.New(demo.WithHistory(10_000), demo.WithSleep(func(ctx context.Context, _ time.Duration) error {
		select {
		case <-p.goOn:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}))
	p.identify(t, pair)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.versions <- r.ProtoMajor
		if p.hangsUp.Load() {
			w.Header().Set("Connection", "close")
		}
		_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		r.URL.Path = "/" + path // without the backend's name
		p.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{
		NextProtos:             protocols,
		SessionTicketsDisabled: true, // who resumes a session is not asked for a certificate again
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			p.handshakes.Add(1)
			return p.certificate.Load(), nil
		},
	}
	s.Config.ErrorLog = silent
	s.EnableHTTP2 = len(protocols) == 0
	s.StartTLS()
	t.Cleanup(s.Close)
	p.port = portOf(s.Listener)
	return p
}

// identify gives the provider another certificate.
func (p *provider) identify(t *testing.T, pair testca.Pair) {
	t.Helper()
	c := pair.TLS(t)
	p.certificate.Store(&c)
}

// last is the latest request that came.
func (p *provider) last(t *testing.T) demo.Request {
	t.Helper()
	all := p.Requests()
	if len(all) == 0 {
		t.Fatal("nothing has reached the provider")
	}
	return all[len(all)-1]
}

// secretOf is a Secret that may be read, of a type, with values given as key, value, key, value.
func secretOf(name, kind string, values ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Secret\ntype: %s\nmetadata: {name: %s, labels: {tierkeeper.io/secret: \"true\"}}\nstringData:\n", kind, name)
	for i, text := range values {
		if i%2 == 0 {
			b.WriteString("  " + text + ": ")
			continue
		}
		b.WriteString(strconv.Quote(text) + "\n")
	}
	return b.String()
}

func certificateOf(name string, pair testca.Pair) string {
	return secretOf(name, "kubernetes.io/tls", "tls.crt", pair.Cert, "tls.key", pair.Key)
}

// tlsGateway is a QuotaGateway with listeners and backends, each in one line, and a route for chats and one for
// messages to each backend, below a path of the backend's name.
func tlsGateway(name string, listeners []string, backends ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: tierkeeper.io/v1alpha1\nkind: QuotaGateway\nmetadata: {name: %s}\nspec:\n  listeners:\n", name)
	for _, l := range listeners {
		b.WriteString("  - {" + l + "}\n")
	}
	b.WriteString("  backends:\n")
	for _, backend := range backends {
		b.WriteString("  - {" + backend + "}\n")
	}
	b.WriteString("  routes:\n")
	for _, backend := range backends {
		name, _, _ := strings.Cut(strings.TrimPrefix(backend, "name: "), ",")
		for protocol, path := range map[string]string{"OpenAIChatCompletions": chatPath, "AnthropicMessages": messagesPath} {
			fmt.Fprintf(&b, "  - {name: %s-%s, matches: [{path: {type: Exact, value: /%s%s}}], type: Backend, backendName: %[1]s, protocol: %[5]s, resource: chat}\n",
				name, strings.ToLower(protocol), name, path, protocol)
		}
	}
	b.WriteString(`  identity:
    sources: [{header: Authorization, prefix: "Bearer "}, {header: x-api-key}, {header: x-goog-api-key}, {queryParameter: key}]
  headers: {dialects: [{type: PerResource}]}
`)
	return b.String()
}

// overTLS is a backend that must prove that it is the upstream.
func overTLS(name string, p *provider, rest ...string) string {
	return fmt.Sprintf("name: %s, endpoints: [{address: 127.0.0.1, port: %d}], %s", name, p.port, strings.Join(rest, ", "))
}

const (
	trustsBundle = "tls: {sni: " + upstream + ", trust: CABundle, caBundleRef: {name: bundle, key: ca.crt}}"
	trustsSystem = "tls: {sni: " + upstream + ", trust: System}"
	sendsKey     = `credential: {header: Authorization, prefix: "Bearer ", secretKeyRef: {name: provider-key, key: token}}`
)

// https is a listener for a host name, or any, with the certificates in a Secret.
func https(name string, at port, hostname, secret string) string {
	if hostname != "" {
		hostname = "hostname: " + strconv.Quote(hostname) + ", "
	}
	return fmt.Sprintf("name: %s, port: %s, protocol: HTTPS, %stls: {certificateRefs: [{name: %s}]}", name, at, hostname, secret)
}

// aPlan is a tier without limits to speak of, and who has it.
func aPlan() string {
	return tier("plan", "{metric: Requests, per: Day, max: 100000}") + "---\n" + holder("client", "plan", keyClient)
}

// guest asks for a host name at a port of the gateway, over TLS, and keeps connections.
func guest(ca *testca.CA, at port, host string, versions ...string) visitor {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+at.String())
		},
		TLSClientConfig:    &tls.Config{RootCAs: ca.Pool(), NextProtos: versions},
		DisableCompression: true, ForceAttemptHTTP2: len(versions) == 0,
	}
	return visitor{&http.Client{Transport: transport}, "https://" + host}
}

// shake tells which certificate a new connection for a host name is shown, if any; "" is no name.
func shake(t *testing.T, at port, host string) (tls.ConnectionState, error) {
	t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}}
	conn, err := dialer.DialContext(t.Context(), "tcp", "127.0.0.1:"+at.String())
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer func() { _ = conn.Close() }()
	return conn.(*tls.Conn).ConnectionState(), nil //nolint:forcetypeassert // It is what a tls.Dialer makes.
}

// shows says whether a new connection is shown this certificate.
func shows(t *testing.T, at port, host string, pair testca.Pair) bool {
	t.Helper()
	state, err := shake(t, at, host)
	return err == nil && string(state.PeerCertificates[0].Raw) == string(pair.TLS(t).Certificate[0])
}
