package envoy_test

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

func TestWhateverAUserMayWriteIsBuilt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		object := gateways().Draw(t, "gateway")
		g := compiled(t, object)
		if g == nil {
			return // two routes match the same requests, or a path that none has
		}
		r, err := envoy.Build(g, settings)
		if err != nil {
			t.Fatalf("building %s: %v", g.Name, err)
		}
		checkValid(t, object, r)
		checkSame(t, r, g)
		checkSecrets(t, r)
		checkListeners(t, object, r)
		for _, c := range r.Routes {
			list := c.GetVirtualHosts()[0].GetRoutes()
			for _, route := range list {
				checkRoute(t, object, route)
			}
			checkPrecedence(t, object, list)
		}
	})
}

var settings = envoy.Settings{Secrets: secretSource, SystemRoots: []byte(content + " of the machine")}

func compiled(t *rapid.T, object v1alpha1.QuotaGateway) *policy.Gateway {
	table, verdicts := policy.Compile(policy.Input{Gateways: []*v1alpha1.QuotaGateway{&object}})
	if !verdicts[0].Accepted() {
		for _, p := range verdicts[0].Problems {
			if p.Reason != v1alpha1.ReasonInvalidRoute && p.Reason != v1alpha1.ReasonSecretNotFound {
				t.Fatalf("%s: %s", p.Field, p.Message)
			}
		}
	}
	if len(table.Gateways()) == 0 {
		return nil
	}
	return table.Gateways()[0]
}

func checkValid(t *rapid.T, object v1alpha1.QuotaGateway, r *envoy.Resources) {
	for _, m := range r.Messages() {
		if err := m.(interface{ ValidateAll() error }).ValidateAll(); err != nil {
			t.Errorf("%s: %v", m.ProtoReflect().Descriptor().Name(), err)
		}
	}
	known := map[string]bool{}
	for _, c := range r.Clusters {
		known[c.GetName()] = true
	}
	for _, b := range object.Spec.Backends {
		if cluster := object.Namespace + "/" + object.Name + "/" + b.Name; known[cluster] != isReady(b) {
			t.Errorf("cluster %s is there: %t, want %t", cluster, known[cluster], isReady(b))
		}
	}
	for _, c := range r.Routes {
		for _, route := range c.GetVirtualHosts()[0].GetRoutes() {
			if forwards := route.GetRoute(); forwards != nil && !known[forwards.GetCluster()] {
				t.Errorf("route %s forwards to cluster %q, which is not there", route.GetName(), forwards.GetCluster())
			}
		}
	}
}

// isReady says whether everything is there that a backend needs of Secrets.
func isReady(b v1alpha1.Backend) bool {
	return (b.Credential == nil || isThere(b.Credential.SecretKeyRef.Name)) &&
		(b.TLS == nil || b.TLS.CABundleRef == nil || isThere(b.TLS.CABundleRef.Name))
}

// checkSecrets demands that every reference leads to a secret, and looks for content where only references belong.
func checkSecrets(t *rapid.T, r *envoy.Resources) {
	told := map[string]bool{}
	for _, secret := range r.Secrets {
		if told[secret.GetName()] {
			t.Errorf("two secrets are called %s", secret.GetName())
		}
		told[secret.GetName()] = true
	}
	others := envoy.Resources{Listeners: r.Listeners, Routes: r.Routes, Clusters: r.Clusters}
	if bytes.Contains(bytesOf(t, &others), []byte(content)) {
		t.Error("the content of a Secret stands outside the secrets")
	}
	for _, m := range others.Messages() {
		err := protorange.Range(m.ProtoReflect(), func(at protopath.Values) error {
			message, ok := at.Index(-1).Value.Interface().(protoreflect.Message)
			if !ok {
				return nil
			}
			if ref, ok := message.Interface().(*tlsv3.SdsSecretConfig); ok && !told[ref.GetName()] {
				t.Errorf("nobody tells the secret %s", ref.GetName())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// checkListeners demands that each listener serves its own names, and is there unless its certificate is missing.
func checkListeners(t *rapid.T, object v1alpha1.QuotaGateway, r *envoy.Resources) {
	domains := map[string][]string{}
	for _, c := range r.Routes {
		domains[c.GetName()] = c.GetVirtualHosts()[0].GetDomains()
	}
	want, got := map[int32]int{}, map[int32]int{}
	served := map[int32]map[string]bool{}
	for _, l := range object.Spec.Listeners {
		if served[l.Port] == nil {
			served[l.Port] = map[string]bool{}
		}
		served[l.Port][cmp.Or(l.Hostname, "*")] = true
		switch {
		case l.TLS == nil:
			want[l.Port] = 1
		case isThere(l.TLS.CertificateRefs[0].Name):
			want[l.Port]++
		}
	}
	for _, l := range r.Listeners {
		port := int32(l.GetAddress().GetSocketAddress().GetPortValue()) //nolint:gosec // It was made from one.
		got[port] = len(l.GetFilterChains())
		for _, chain := range l.GetFilterChains() {
			manager := unpackFor[*hcmv3.HttpConnectionManager](t, chain.GetFilters()[0].GetTypedConfig())
			for _, d := range domains[manager.GetRds().GetRouteConfigName()] {
				if !served[port][d] {
					t.Errorf("port %d serves %s, which no listener says", port, d)
				}
			}
			if len(domains[manager.GetRds().GetRouteConfigName()]) == 0 {
				t.Errorf("port %d refers to routes that are not there", port)
			}
		}
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("filter chains by port (-want +got):\n%s", diff)
	}
}

func unpackFor[T proto.Message](t *rapid.T, packed *anypb.Any) T {
	m, err := packed.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	return m.(T) //nolint:forcetypeassert // A wrong one ends the test as well.
}

// checkSame builds again and compares the bytes, by which the server tells what is new.
func checkSame(t *rapid.T, r *envoy.Resources, g *policy.Gateway) {
	again, err := envoy.Build(g, settings)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(bytesOf(t, r), bytesOf(t, again)) {
		t.Errorf("the second time something else was built:\n%v\n%v", r, again)
	}
}

func bytesOf(t *rapid.T, r *envoy.Resources) []byte {
	var all []byte
	for _, m := range r.Messages() {
		var err error
		if all, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(all, m); err != nil {
			t.Fatal(err)
		}
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
	unmetered := fields[descriptor.KeyUnmetered].GetStringValue() == "true"
	if fields[descriptor.KeyProtocol].GetStringValue() == "" || fields[descriptor.KeyResource].GetStringValue() == "" && !unmetered {
		t.Errorf("route %s does not say its protocol and its resource: %v", route.GetName(), fields)
	}
	_, disabled := route.GetTypedPerFilterConfig()["envoy.filters.http.ratelimit"]
	if answersItself := route.GetDirectResponse() != nil; !answersItself && disabled != isPreflight {
		t.Errorf("on route %s the rate limit filter is configured: %t", route.GetName(), disabled)
	}
	of := slices.IndexFunc(object.Spec.Routes, func(r v1alpha1.Route) bool { return r.Name == strings.Split(route.GetName(), "/")[0] })
	if declared := object.Spec.Routes[of].Metering == v1alpha1.MeteringUnmetered; declared != unmetered {
		t.Errorf("route %s is unmetered: %t, want %t", route.GetName(), unmetered, declared)
	}
}

// checkPrecedence asks Envoy's list and the API's words for the route of many requests.
func checkPrecedence(t *rapid.T, object v1alpha1.QuotaGateway, list []*routev3.Route) {
	tried := slices.Concat(paths, []string{"/v1/chat/x", "/v1/chats", "/other"})
	for _, r := range object.Spec.Routes {
		for _, m := range r.Matches {
			for _, prefix := range append([]string{""}, object.Spec.PathPrefixes...) {
				of := prefix + m.Path.Value
				tried = append(tried, of, of+"/x", of+"x", of+"/x:generateContent", of+"/x:generateContent/", of+"/x:countTokens", of+"/x%3AgenerateContent")
			}
		}
	}
	for _, path := range tried {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodOptions} {
			if got, want := firstOf(list, path, method), bestOf(object.Spec, path, method); got != want {
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
		case *routev3.RouteMatch_SafeRegex:
			value = p.SafeRegex.GetRegex()
			kind, matches = "Regex", regexp.MustCompile("^(?:"+value+")$").MatchString(path)
		case *routev3.RouteMatch_PathSeparatedPrefix:
			value = p.PathSeparatedPrefix
			kind, matches = "PathPrefix", path == value || strings.HasPrefix(path, value+"/")
		}
		for _, h := range m.GetHeaders() {
			matches = matches && h.GetName() == ":method" && h.GetStringMatch().GetExact() == method
		}
		if matches && strings.HasSuffix(r.GetName(), "/misspelt") {
			return "misspelt"
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

// bestOf is the rule as the API words it: an exact path goes before a prefix, a longer prefix before a shorter one, the calls
// of Gemini before what else is below their prefix, a named method before any. OPTIONS passes every route without being
// counted, and nobody serves what could be taken for a call of Gemini.
func bestOf(spec v1alpha1.QuotaGatewaySpec, path, method string) string {
	best := claim{name: "none"}
	for _, r := range spec.Routes {
		for _, m := range r.Matches {
			for _, prefix := range append([]string{""}, spec.PathPrefixes...) {
				for _, c := range claims(r, m, prefix) {
					if c.served(path, method) && (best.name == "none" || narrower(c, best) < 0) {
						best = c
					}
				}
			}
		}
	}
	switch {
	case best.name == "none" || best.name == "misspelt" || method != http.MethodOptions:
		return best.name
	case best.kind == call:
		return "preflight of Regex " + regexp.QuoteMeta(best.Path.Value) + `/[A-Za-z0-9._~@-]+:(generateContent|streamGenerateContent)`
	}
	return fmt.Sprintf("preflight of %s %s", best.Path.Type, best.Path.Value)
}

// claims are what a match claims below a path prefix.
func claims(r v1alpha1.Route, m v1alpha1.Match, prefix string) []claim {
	if m.Path.Type == v1alpha1.PathMatchPathPrefix || prefix != "" && m.Path.Value == "/" {
		m.Path.Value = strings.TrimRight(m.Path.Value, "/")
	}
	m.Path.Value = prefix + m.Path.Value
	if r.Protocol != v1alpha1.ProtocolGeminiGenerateContent {
		return []claim{{m, r.Name, anything}}
	}
	odd := m
	odd.Method = ""
	return []claim{{m, r.Name, call}, {odd, "misspelt", likeACall}}
}

type claim struct {
	v1alpha1.Match

	name string
	kind int
}

// What a claim is for, in the order in which claims of one path are tried.
const (
	call = iota
	likeACall
	anything
)

func (c claim) served(path, method string) bool {
	if c.Method != "" && string(c.Method) != method && (method != http.MethodOptions) {
		return false
	}
	rest, below := strings.CutPrefix(path, c.Path.Value+"/")
	switch model, what, _ := strings.Cut(rest, ":"); c.kind {
	case call:
		return below && model != "" && !strings.ContainsAny(model, "/%") && (what == "generateContent" || what == "streamGenerateContent")
	case likeACall:
		rest = strings.ToLower(rest)
		return below && (strings.Contains(rest, "%") || strings.Contains(rest, ":generatecontent") || strings.Contains(rest, ":streamgeneratecontent"))
	}
	return below && c.Path.Type == v1alpha1.PathMatchPathPrefix || path == c.Path.Value
}

func narrower(a, b claim) int {
	anyMethod := func(c claim) int {
		if c.Method == "" {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(a.Path.Type, b.Path.Type), // Exact stands before PathPrefix in the alphabet, too
		cmp.Compare(len(b.Path.Value), len(a.Path.Value)),
		cmp.Compare(a.kind, b.kind),
		cmp.Compare(anyMethod(a), anyMethod(b)),
	)
}
