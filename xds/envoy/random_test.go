package envoy_test

import (
	"fmt"
	"net/http"
	"strings"

	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

var methods = []v1alpha1.Method{"", http.MethodGet, http.MethodPost}

// paths of requests; of routes too, with another chance for those that lie below each other.
var paths = []string{"/", "/v1", "/v1/chat", "/v1/chat/completions", "/v1chat", "/v2", "/v1/", "/x"}

// gateways draws what a user may write: within the bounds of the API, and with routes that often share requests.
func gateways() *rapid.Generator[v1alpha1.QuotaGateway] {
	return rapid.Custom(func(t *rapid.T) v1alpha1.QuotaGateway {
		var g v1alpha1.QuotaGateway
		g.Namespace, g.Name = name().Draw(t, "namespace"), name().Draw(t, "name")
		for _, port := range rapid.SliceOfNDistinct(rapid.Int32Range(1, 65535), 1, 8, rapid.ID[int32]).Draw(t, "ports") {
			g.Spec.Listeners = append(g.Spec.Listeners, listeners(port).Draw(t, "listeners")...)
		}
		for i := range rapid.IntRange(1, 4).Draw(t, "backends") {
			g.Spec.Backends = append(g.Spec.Backends, backends(fmt.Sprintf("b%d", i)).Draw(t, "backend"))
		}
		for i := range rapid.IntRange(1, 12).Draw(t, "routes") {
			g.Spec.Routes = append(g.Spec.Routes, routes(fmt.Sprintf("r%d", i), len(g.Spec.Backends)).Draw(t, "route"))
		}
		g.Spec.PathPrefixes = rapid.SampledFrom([][]string{nil, nil, {"/api"}, {"/v1", "/x"}}).Draw(t, "pathPrefixes")
		g.Spec.Identity.TrustedProxyHops = rapid.Ptr(rapid.Int32Range(0, 16), true).Draw(t, "trustedProxyHops")
		g.Spec.Identity.Sources = rapid.SliceOfN(sources(), 1, 8).Draw(t, "sources")
		g.Spec.Failure = rapid.SampledFrom([]*v1alpha1.Failure{nil, {WhenServiceUnavailable: v1alpha1.ServiceUnavailableAllow}}).Draw(t, "failure")
		if n := rapid.Int64Range(1023, 1<<30).Draw(t, "maxBodyBytes"); n > 1023 {
			g.Spec.Requests = &v1alpha1.Requests{MaxBodyBytes: n}
		}
		if rapid.Bool().Draw(t, "protects itself") {
			g.Spec.AbuseProtection = &v1alpha1.AbuseProtection{}
		}
		return g
	})
}

// listeners share a port: one for any name, or several for names of their own.
func listeners(port int32) *rapid.Generator[[]v1alpha1.Listener] {
	return rapid.Custom(func(t *rapid.T) []v1alpha1.Listener {
		l := v1alpha1.Listener{Port: port, Protocol: v1alpha1.ListenerProtocolHTTP}
		if rapid.Bool().Draw(t, "https") {
			l.Protocol = v1alpha1.ListenerProtocolHTTPS
		}
		hosts := rapid.SampledFrom([][]string{{""}, {"a.example"}, {"*.example", "a.example"}, {"b.example", "", "*.b.example"}}).Draw(t, "hostnames")
		var all []v1alpha1.Listener
		for i, host := range hosts {
			l.Name, l.Hostname = fmt.Sprintf("l%d-%d", port, i), host
			if l.Protocol == v1alpha1.ListenerProtocolHTTPS {
				l.TLS = &v1alpha1.ListenerTLS{CertificateRefs: []v1alpha1.Ref{{Name: rapid.SampledFrom(secretNames).Draw(t, "certificate")}}}
			}
			all = append(all, l)
		}
		return all
	})
}

// secretNames are Secrets that gateways name. There is content of some of them.
var secretNames = []string{"here", "there", "nowhere"}

const content = "content of a Secret"

func secretSource(v policy.SecretValue) []byte {
	if v.Secret.Name == "nowhere" {
		return nil
	}
	return []byte(content + " " + v.Secret.Name + " " + v.Key)
}

func isThere(name string) bool { return name != "nowhere" }

func name() *rapid.Generator[string] {
	return rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`)
}

func backends(name string) *rapid.Generator[v1alpha1.Backend] {
	return rapid.Custom(func(t *rapid.T) v1alpha1.Backend {
		endpoint := rapid.Custom(func(t *rapid.T) v1alpha1.Endpoint {
			return v1alpha1.Endpoint{
				Address: rapid.OneOf(
					rapid.StringMatching(`[A-Za-z0-9]([-A-Za-z0-9.]{0,40}[A-Za-z0-9])?`), rapid.StringMatching(`[0-9a-fA-F:.]{1,39}`),
					rapid.SampledFrom([]string{"127.0.0.1", "::1", "2001:db8::7", "localhost"})).Draw(t, "address"),
				Port: rapid.Int32Range(1, 65535).Draw(t, "port"),
				Pool: rapid.SampledFrom([]string{"", "", "own", "other"}).Draw(t, "pool"),
			}
		})
		b := v1alpha1.Backend{Name: name, Endpoints: rapid.SliceOfN(endpoint, 1, 4).Draw(t, "endpoints")}
		b.Endpoints[0].Pool = ""
		ref := v1alpha1.SecretKeyRef{Key: "key"}
		if rapid.Bool().Draw(t, "tls") {
			b.TLS = &v1alpha1.BackendTLS{SNI: "api.example", Trust: v1alpha1.TrustSystem}
			if rapid.Bool().Draw(t, "bundle") {
				ref.Name = rapid.SampledFrom(secretNames).Draw(t, "caBundleRef")
				b.TLS.Trust, b.TLS.CABundleRef = v1alpha1.TrustCABundle, new(ref)
			}
			if rapid.Bool().Draw(t, "credential") {
				ref.Name = rapid.SampledFrom(secretNames).Draw(t, "secretKeyRef")
				b.Credential = &v1alpha1.BackendCredential{Header: "X-Provider-Key", Prefix: rapid.SampledFrom([]string{"", "Bearer "}).Draw(t, "prefix"), SecretKeyRef: ref}
			}
		}
		if rapid.Bool().Draw(t, "timeouts") {
			b.Timeouts = &v1alpha1.Timeouts{
				ConnectSeconds:    rapid.Int32Range(0, 60).Draw(t, "connect"),
				IdleStreamSeconds: rapid.Int32Range(1, 3600).Draw(t, "idle"),
			}
		}
		return b
	})
}

func routes(name string, backends int) *rapid.Generator[v1alpha1.Route] {
	return rapid.Custom(func(t *rapid.T) v1alpha1.Route {
		match := rapid.Custom(func(t *rapid.T) v1alpha1.Match {
			return v1alpha1.Match{
				Path: v1alpha1.PathMatch{
					Type: rapid.SampledFrom([]v1alpha1.PathMatchType{v1alpha1.PathMatchExact, v1alpha1.PathMatchPathPrefix}).Draw(t, "type"),
					Value: rapid.OneOf(rapid.SampledFrom(paths), rapid.SampledFrom(paths),
						rapid.StringMatching(`/[^?#%]{0,40}`)).Draw(t, "path"),
				},
				Method: rapid.SampledFrom(methods).Draw(t, "method"),
			}
		})
		r := v1alpha1.Route{
			Name: name, Type: v1alpha1.RouteTypeBackend,
			Matches:     rapid.SliceOfN(match, 1, 3).Draw(t, "matches"),
			BackendName: fmt.Sprintf("b%d", rapid.IntRange(0, backends-1).Draw(t, "backend")),
			Protocol:    v1alpha1.RouteProtocol(rapid.SampledFrom(append(policy.Protocols(), policy.Gemini)).Draw(t, "protocol").String()),
			Resource:    rapid.SampledFrom([]string{"chat", "images"}).Draw(t, "resource"),
			Metering:    rapid.SampledFrom([]v1alpha1.Metering{"", v1alpha1.MeteringMetered, v1alpha1.MeteringUnmetered}).Draw(t, "metering"),
		}
		if r.Metering == v1alpha1.MeteringUnmetered && rapid.Bool().Draw(t, "no resource") {
			r.Resource = ""
		}
		for i := range r.Matches {
			if m := &r.Matches[i].Path; r.Protocol == v1alpha1.ProtocolGeminiGenerateContent {
				m.Type, m.Value = v1alpha1.PathMatchPathPrefix, strings.TrimRight(m.Value, "/")+"/m"
			}
		}
		if r.Protocol == v1alpha1.ProtocolOpaqueBody {
			r.Model = rapid.SampledFrom([]string{"", "tts-1", "ein Modell%"}).Draw(t, "model")
		}
		return r
	})
}

func sources() *rapid.Generator[v1alpha1.KeySource] {
	return rapid.OneOf(
		rapid.Map(rapid.StringMatching(`[A-Za-z0-9-]{1,64}`), func(s string) v1alpha1.KeySource { return v1alpha1.KeySource{Header: s} }),
		rapid.Map(rapid.StringMatching(`[A-Za-z0-9_.-]{1,64}`), func(s string) v1alpha1.KeySource { return v1alpha1.KeySource{QueryParameter: s} }),
		rapid.SampledFrom([]v1alpha1.KeySource{
			{Header: "Authorization", Prefix: "Bearer "}, {Header: "authorization", Prefix: "Basic "}, {Header: "X-Api-Key"}, {QueryParameter: "key"},
		}),
	)
}
