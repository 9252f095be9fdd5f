package envoy_test

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

var methods = []v1alpha1.Method{"", http.MethodGet, http.MethodPost}

// paths of requests; of routes too, with another chance for those that lie below each other.
var paths = []string{"/", "/v1", "/v1/chat", "/v1/chat/completions", "/v1chat", "/v2", "/v1/", "/x"}

// gateways draws what a user may write: within the bounds of the API, and with routes that often share requests.
func gateways() *rapid.Generator[v1alpha1.QuotaGateway] {
	return rapid.Custom(func(t *rapid.T) v1alpha1.QuotaGateway {
		var g v1alpha1.QuotaGateway
		g.Namespace, g.Name = name().Draw(t, "namespace"), name().Draw(t, "name")
		for _, port := range rapid.SliceOfNDistinct(rapid.Int32Range(1, 65535), 1, 16, rapid.ID[int32]).Draw(t, "ports") {
			l := v1alpha1.Listener{Name: fmt.Sprintf("l%d", port), Port: port, Protocol: v1alpha1.ListenerProtocolHTTP}
			g.Spec.Listeners = append(g.Spec.Listeners, l)
		}
		for i := range rapid.IntRange(1, 4).Draw(t, "backends") {
			g.Spec.Backends = append(g.Spec.Backends, backends(fmt.Sprintf("b%d", i)).Draw(t, "backend"))
		}
		for i := range rapid.IntRange(1, 12).Draw(t, "routes") {
			g.Spec.Routes = append(g.Spec.Routes, routes(fmt.Sprintf("r%d", i), len(g.Spec.Backends)).Draw(t, "route"))
		}
		g.Spec.Identity.Sources = rapid.SliceOfN(sources(), 1, 8).Draw(t, "sources")
		if n := rapid.Int64Range(1023, 1<<30).Draw(t, "maxBodyBytes"); n > 1023 {
			g.Spec.Requests = &v1alpha1.Requests{MaxBodyBytes: n}
		}
		return g
	})
}

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
			}
		})
		b := v1alpha1.Backend{Name: name, Endpoints: rapid.SliceOfN(endpoint, 1, 4).Draw(t, "endpoints")}
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
						rapid.StringMatching(`/[^?#]{0,40}`)).Draw(t, "path"),
				},
				Method: rapid.SampledFrom(methods).Draw(t, "method"),
			}
		})
		r := v1alpha1.Route{
			Name: name, Type: v1alpha1.RouteTypeBackend,
			Matches:     rapid.SliceOfN(match, 1, 3).Draw(t, "matches"),
			BackendName: fmt.Sprintf("b%d", rapid.IntRange(0, backends-1).Draw(t, "backend")),
			Protocol: rapid.SampledFrom([]v1alpha1.RouteProtocol{
				v1alpha1.ProtocolOpenAIChatCompletions, v1alpha1.ProtocolOpenAIEmbeddings,
				v1alpha1.ProtocolAnthropicMessages, v1alpha1.ProtocolOpaqueBody,
			}).Draw(t, "protocol"),
			Resource: rapid.SampledFrom([]string{"chat", "images"}).Draw(t, "resource"),
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

func TestWhateverAUserMayWriteIsBuilt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		object := gateways().Draw(t, "gateway")
		g := compiled(t, object)
		if g == nil {
			return // two routes match the same requests, or a path that none has
		}
		r, err := envoy.Build(g, envoy.Settings{})
		if err != nil {
			t.Fatalf("building %s: %v", g.Name, err)
		}
		checkValid(t, r)
		checkSame(t, r, g)
		for _, route := range r.Routes[0].GetVirtualHosts()[0].GetRoutes() {
			checkRoute(t, object, route)
		}
		checkPrecedence(t, object, r.Routes[0].GetVirtualHosts()[0].GetRoutes())
	})
}

func compiled(t *rapid.T, object v1alpha1.QuotaGateway) *policy.Gateway {
	table, verdicts := policy.Compile(policy.Input{Gateways: []v1alpha1.QuotaGateway{object}})
	if !verdicts[0].Accepted() {
		for _, p := range verdicts[0].Problems {
			if p.Reason != v1alpha1.ReasonInvalidRoute {
				t.Fatalf("%s: %s", p.Field, p.Message)
			}
		}
		return nil
	}
	return table.Gateways()[0]
}

func checkValid(t *rapid.T, r *envoy.Resources) {
	for _, l := range r.Listeners {
		if err := l.ValidateAll(); err != nil {
			t.Errorf("listener %s: %v", l.GetName(), err)
		}
	}
	for _, c := range r.Routes {
		if err := c.ValidateAll(); err != nil {
			t.Errorf("routes %s: %v", c.GetName(), err)
		}
	}
	known := map[string]bool{}
	for _, c := range r.Clusters {
		known[c.GetName()] = true
		if err := c.ValidateAll(); err != nil {
			t.Errorf("cluster %s: %v", c.GetName(), err)
		}
	}
	for _, route := range r.Routes[0].GetVirtualHosts()[0].GetRoutes() {
		if !known[route.GetRoute().GetCluster()] {
			t.Errorf("route %s forwards to cluster %q, which is not there", route.GetName(), route.GetRoute().GetCluster())
		}
	}
}

// checkSame builds again and compares the bytes, by which the server tells what is new.
func checkSame(t *rapid.T, r *envoy.Resources, g *policy.Gateway) {
	again, err := envoy.Build(g, envoy.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(bytesOf(t, r), bytesOf(t, again)) {
		t.Errorf("the second time something else was built:\n%v\n%v", r, again)
	}
}

func bytesOf(t *rapid.T, r *envoy.Resources) []byte {
	var all []byte
	add := func(m proto.Message) {
		var err error
		if all, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(all, m); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range r.Listeners {
		add(m)
	}
	for _, m := range r.Routes {
		add(m)
	}
	for _, m := range r.Clusters {
		add(m)
	}
	return all
}

func checkRoute(t *rapid.T, object v1alpha1.QuotaGateway, route *routev3.Route) {
	for _, s := range object.Spec.Identity.Sources {
		if s.Header != "" && !slices.Contains(route.GetRequestHeadersToRemove(), strings.ToLower(s.Header)) {
			t.Errorf("route %s forwards the header %s, in which a key can stand", route.GetName(), s.Header)
		}
	}
	fields := route.GetMetadata().GetFilterMetadata()[descriptor.MetadataRoute].GetFields()
	isPreflight := strings.HasSuffix(route.GetName(), "/preflight")
	if got, want := fields[descriptor.KeyGateway].GetStringValue(), object.Namespace+"/"+object.Name; got != want {
		t.Errorf("route %s says gateway %q, want %q", route.GetName(), got, want)
	}
	for _, key := range []string{descriptor.KeyResource, descriptor.KeyProtocol} {
		if fields[key].GetStringValue() == "" {
			t.Errorf("route %s does not say its %s", route.GetName(), key)
		}
	}
	if _, disabled := route.GetTypedPerFilterConfig()["envoy.filters.http.ratelimit"]; disabled != isPreflight {
		t.Errorf("on route %s the rate limit filter is configured: %t", route.GetName(), disabled)
	}
}

// checkPrecedence asks Envoy's list and the API's words for the route of many requests.
func checkPrecedence(t *rapid.T, object v1alpha1.QuotaGateway, list []*routev3.Route) {
	tried := slices.Concat(paths, []string{"/v1/chat/x", "/v1/chats", "/other"})
	for _, r := range object.Spec.Routes {
		for _, m := range r.Matches {
			tried = append(tried, m.Path.Value, m.Path.Value+"/x", m.Path.Value+"x")
		}
	}
	for _, path := range tried {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodOptions} {
			if got, want := firstOf(list, path, method), bestOf(object.Spec.Routes, path, method); got != want {
				t.Errorf("%s %s is served by route %q, want %q", method, path, got, want)
			}
		}
	}
}

// firstOf does what Envoy does.
func firstOf(list []*routev3.Route, path, method string) string {
	for _, r := range list {
		m := r.GetMatch()
		kind, value, matches := "", "", false
		switch p := m.GetPathSpecifier().(type) {
		case *routev3.RouteMatch_Path:
			kind, value, matches = "Exact", p.Path, path == p.Path
		case *routev3.RouteMatch_Prefix:
			kind, value, matches = "PathPrefix", strings.TrimSuffix(p.Prefix, "/"), strings.HasPrefix(path, p.Prefix)
		case *routev3.RouteMatch_PathSeparatedPrefix:
			value = p.PathSeparatedPrefix
			kind, matches = "PathPrefix", path == value || strings.HasPrefix(path, value+"/")
		}
		for _, h := range m.GetHeaders() {
			matches = matches && h.GetName() == ":method" && h.GetStringMatch().GetExact() == method
		}
		if matches && strings.HasSuffix(r.GetName(), "/preflight") {
			return "preflight of " + kind + " " + value
		}
		if matches {
			return r.GetName()
		}
	}
	return "none"
}

// bestOf is the rule as the API words it: an exact path goes before a prefix, a longer prefix before a shorter one, a named
// method before any. OPTIONS passes every route without being counted.
func bestOf(routes []v1alpha1.Route, path, method string) string {
	best, of := "none", v1alpha1.Match{}
	for _, r := range routes {
		for _, m := range r.Matches {
			if m.Path.Type == v1alpha1.PathMatchPathPrefix {
				m.Path.Value = strings.TrimRight(m.Path.Value, "/")
			}
			if served(m, path, method) && (best == "none" || narrower(m, of) < 0) {
				best, of = r.Name, m
			}
		}
	}
	if best != "none" && method == http.MethodOptions {
		return fmt.Sprintf("preflight of %s %s", of.Path.Type, of.Path.Value)
	}
	return best
}

func served(m v1alpha1.Match, path, method string) bool {
	if m.Method != "" && string(m.Method) != method && method != http.MethodOptions {
		return false
	}
	below := m.Path.Type == v1alpha1.PathMatchPathPrefix && strings.HasPrefix(path, m.Path.Value+"/")
	return below || path == m.Path.Value
}

func narrower(a, b v1alpha1.Match) int {
	anyMethod := func(m v1alpha1.Match) int {
		if m.Method == "" {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(a.Path.Type, b.Path.Type), // Exact stands before PathPrefix in the alphabet, too
		cmp.Compare(len(b.Path.Value), len(a.Path.Value)),
		cmp.Compare(anyMethod(a), anyMethod(b)),
	)
}
