package envoy_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	content_jsonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/content_parsers/json/v3"
	aiv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ai_protocol_manager/v3"
	header_to_metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	sse_to_metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/sse_to_metadata/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	exprv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	ai_typev3 "github.com/envoyproxy/go-control-plane/envoy/type/ai/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

// full is a gateway that makes Envoy send everything that it can.
func full() *policy.Gateway {
	return &policy.Gateway{
		Name:         policy.Name{Namespace: "edge", Name: "main"},
		Listeners:    []policy.Listener{{Name: "http", Port: 8080}},
		Backends:     []policy.Backend{{Name: "b", Endpoints: []policy.Endpoint{{Address: "10.0.0.7", Port: 9000}}, ConnectTimeout: time.Second, IdleTimeout: time.Second}},
		Sources:      []policy.KeySource{{Header: "x-api-key"}, {Query: "key"}},
		MaxBodyBytes: 1024,
		Routes: []policy.Route{
			{Name: "chat", Path: "/chat", Backend: "b", Protocol: policy.OpenAIChat, Resource: "chat"},
			{Name: "images", Path: "/images", Backend: "b", Protocol: policy.Opaque, Resource: "images", Model: "image-1"},
			{Name: "models", Path: "/models", Backend: "b", Protocol: policy.Opaque, Unmetered: true},
		},
	}
}

func build(t testing.TB, g *policy.Gateway) *envoy.Resources {
	t.Helper()
	r, err := envoy.Build(g, envoy.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheServiceReadsEveryKeyThatEnvoySendsAndNoOther(t *testing.T) {
	t.Parallel()
	limits := filterOf[*ratelimitv3.RateLimit](t, connectionManager(t, build(t, full())), "envoy.filters.http.ratelimit").GetRateLimits()
	tests := map[string]struct {
		phase  string
		onDone bool
		decode func([]descriptor.Entry) any
	}{
		"reserve": {descriptor.PhaseReserve, false, func(entries []descriptor.Entry) any {
			var r descriptor.Reserve
			descriptor.DecodeReserve(entries, &r)
			return r
		}},
		"settle": {descriptor.PhaseSettle, true, func(entries []descriptor.Entry) any {
			return descriptor.DecodeSettle(entries)
		}},
	}
	if len(limits) != len(tests) {
		t.Errorf("Envoy sends %d descriptors, want %d", len(limits), len(tests))
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := slices.IndexFunc(limits, func(l *routev3.RateLimit) bool { return l.GetApplyOnStreamDone() == tc.onDone })
			if i < 0 {
				t.Fatalf("no descriptor is sent with apply_on_stream_done %t", tc.onDone)
			}
			sent := entries(t, limits[i])
			if got := descriptor.Phase(sent); got != tc.phase {
				t.Errorf("phase %q, want %q", got, tc.phase)
			}
			var keys []string
			for _, e := range sent {
				if e.Key != descriptor.KeyPhase {
					keys = append(keys, kindOf(e.Key))
				}
			}
			slices.Sort(keys)
			if diff := cmp.Diff(keysRead(t, tc.decode), keys); diff != "" {
				t.Errorf("keys that the service reads and Envoy sends (-read +sent):\n%s", diff)
			}
			for _, field := range unset(reflect.ValueOf(tc.decode(sent)), "") {
				if field == ".Absurd" {
					continue // It is what the service makes of numbers.
				}
				t.Errorf("nothing that Envoy sends sets %s", field)
			}
		})
	}
}

// entries is what the actions would send, with the value 1 where they read one, and with "true" as a flag.
func entries(t testing.TB, limit *routev3.RateLimit) []descriptor.Entry {
	t.Helper()
	var all []descriptor.Entry
	for _, a := range limit.GetActions() {
		e := descriptor.Entry{Value: "1"}
		switch a := a.GetActionSpecifier().(type) {
		case *routev3.RateLimit_Action_GenericKey_:
			e.Key, e.Value = a.GenericKey.GetDescriptorKey(), a.GenericKey.GetDescriptorValue()
		case *routev3.RateLimit_Action_RequestHeaders_:
			e.Key = a.RequestHeaders.GetDescriptorKey()
		case *routev3.RateLimit_Action_QueryParameters_:
			e.Key = a.QueryParameters.GetDescriptorKey()
		case *routev3.RateLimit_Action_RemoteAddress_:
			e.Key = "remote_address" // Envoy's own name for it
		case *routev3.RateLimit_Action_Metadata:
			e.Key = a.Metadata.GetDescriptorKey()
		case *routev3.RateLimit_Action_Extension:
			e.Key = unpack[*exprv3.Descriptor](t, a.Extension.GetTypedConfig()).GetDescriptorKey()
		default:
			t.Fatalf("no test knows what %T sends", a)
		}
		if e.Key == descriptor.KeyStream || e.Key == descriptor.KeyUnmetered {
			e.Value = "true"
		}
		all = append(all, e)
	}
	return all
}

// keysRead finds by trial which of the keys that package descriptor names make a difference to decode.
func keysRead(t testing.TB, decode func([]descriptor.Entry) any) []string {
	t.Helper()
	var read []string
	for _, key := range keyConstants(t) {
		for _, value := range []string{"1", "true"} {
			entry := descriptor.Entry{Key: key, Value: value}
			if !reflect.DeepEqual(decode([]descriptor.Entry{entry}), decode(nil)) {
				read = append(read, key)
				break
			}
		}
	}
	slices.Sort(read)
	return read
}

// kindOf is the constant from which a key is made.
func kindOf(key string) string {
	for _, prefix := range []string{descriptor.KeyHeader, descriptor.KeyQuery} {
		if strings.HasPrefix(key, prefix) {
			return prefix
		}
	}
	return key
}

// keyConstants reads the values of the constants Key… from their source, because a program cannot list constants.
func keyConstants(t testing.TB) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../descriptor/descriptor.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 && strings.HasPrefix(spec.Names[0].Name, "Key") {
			values[spec.Names[0].Name] = stringOf(spec.Values[0], values)
		}
		return true
	})
	if len(values) == 0 {
		t.Fatal("descriptor.go has no constants that begin with Key")
	}
	return slices.Sorted(maps.Values(values))
}

// stringOf evaluates a literal, the name of a constant before it, or a sum of these.
func stringOf(e ast.Expr, known map[string]string) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, _ := strconv.Unquote(e.Value)
		return s
	case *ast.Ident:
		return known[e.Name]
	case *ast.BinaryExpr:
		return stringOf(e.X, known) + stringOf(e.Y, known)
	}
	return ""
}

// unset names the fields that are zero.
func unset(v reflect.Value, path string) []string {
	if v.Kind() != reflect.Struct {
		if v.IsZero() {
			return []string{path}
		}
		return nil
	}
	var found []string
	for i := range v.NumField() {
		found = append(found, unset(v.Field(i), path+"."+v.Type().Field(i).Name)...)
	}
	return found
}

func TestEveryDenialHasAMapper(t *testing.T) {
	t.Parallel()
	var got []int
	for _, m := range connectionManager(t, build(t, full())).GetLocalReplyConfig().GetMappers() {
		f := m.GetFilter().GetMetadataFilter()
		if f == nil {
			continue
		}
		if path := f.GetMatcher().GetPath(); f.GetMatcher().GetFilter() != descriptor.MetadataService || len(path) != 1 ||
			path[0].GetKey() != descriptor.MetadataDenyStatus || f.GetMatchIfKeyNotFound().GetValue() {
			t.Errorf("a mapper looks at something else than the denial: %v", f)
		}
		status, err := strconv.Atoi(f.GetMatcher().GetValue().GetStringMatch().GetExact())
		if err != nil || uint32(status) != m.GetStatusCode().GetValue() { //nolint:gosec // A status has three digits.
			t.Errorf("the mapper of %v answers %d", f, m.GetStatusCode().GetValue())
		}
		got = append(got, status)
	}
	if diff := cmp.Diff(descriptor.DenyStatuses, got); diff != "" {
		t.Errorf("statuses with a mapper (-want +got):\n%s", diff)
	}
}

// What is read from metadata must have been written there, under the same names.
func TestMetadataIsReadWhereItIsWritten(t *testing.T) {
	t.Parallel()
	r := build(t, full())
	manager := connectionManager(t, r)
	limit := filterOf[*ratelimitv3.RateLimit](t, manager, "envoy.filters.http.ratelimit")

	written := map[string]bool{
		descriptor.MetadataService + "/" + descriptor.KeyLease: true, // by the service
	}
	for key := range everyRouteKey(r) {
		written["route "+key] = true
	}
	for key := range keysFromStreams(t, manager) {
		written[key] = true
	}
	for _, rule := range filterOf[*header_to_metadatav3.Config](t, manager, "envoy.filters.http.header_to_metadata").GetResponseRules() {
		written[rule.GetOnHeaderPresent().GetMetadataNamespace()+"/"+rule.GetOnHeaderPresent().GetKey()] = true
	}
	for _, l := range limit.GetRateLimits() {
		for _, a := range l.GetActions() {
			m := a.GetMetadata()
			if m == nil {
				continue
			}
			place := placeOf(m.GetMetadataKey())
			if m.GetSource() == routev3.RateLimit_Action_MetaData_ROUTE_ENTRY {
				place = "route " + place
			}
			if !written[place] {
				t.Errorf("the descriptor entry %s is read from %s, where nothing is written", m.GetDescriptorKey(), place)
			}
		}
	}
	if limit.GetMetadataNamespace() != "" || descriptor.MetadataService != "envoy.filters.http.ratelimit" {
		t.Errorf("answers of the service are kept under %q, not under %q", limit.GetMetadataNamespace(), descriptor.MetadataService)
	}
	lease := renewed(manager.GetAccessLog()).GetMatcher()
	if lease.GetFilter() != descriptor.MetadataService || lease.GetPath()[0].GetKey() != descriptor.KeyLease {
		t.Errorf("signs of life are sent for requests with %v, not for those with a lease", lease)
	}
}

// A protocol that nobody calls by a name of its own would be counted as another, and one whose usage nobody reads as none.
func TestEveryProtocolIsNamedToTheServiceAndItsUsageIsRead(t *testing.T) {
	t.Parallel()
	var named []descriptor.Protocol
	for _, p := range policy.Protocols() {
		g := full()
		g.Routes = []policy.Route{{Name: "route", Path: "/models", Prefix: true, Backend: "b", Protocol: p, Resource: "chat"}}
		for _, r := range build(t, g).Routes[0].GetVirtualHosts()[0].GetRoutes() {
			if r.GetName() != "route" {
				continue
			}
			fields := r.GetMetadata().GetFilterMetadata()[descriptor.MetadataRoute].GetFields()
			named = append(named, descriptor.Protocol(fields[descriptor.KeyProtocol].GetStringValue()))
			usage := unpack[*aiv3.AiProtocolManagerPerRoute](t, r.GetTypedPerFilterConfig()["envoy.filters.http.ai_protocol_manager"])
			if usage.GetResponse().GetLlmProtocol() == ai_typev3.LLMProtocol_LLM_PROTOCOL_UNSPECIFIED {
				t.Errorf("nobody reads the usage of %s", p)
			}
		}
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(descriptor.Protocols)), slices.Sorted(slices.Values(named))); diff != "" {
		t.Errorf("protocols (-that the service knows +that Envoy names):\n%s", diff)
	}
}

func everyRouteKey(r *envoy.Resources) map[string]bool {
	keys := map[string]bool{}
	for _, route := range r.Routes[0].GetVirtualHosts()[0].GetRoutes() {
		for namespace, fields := range route.GetMetadata().GetFilterMetadata() {
			for key := range fields.GetFields() {
				keys[namespace+"/"+key] = true
			}
		}
	}
	return keys
}

func keysFromStreams(t testing.TB, manager *hcmv3.HttpConnectionManager) map[string]bool {
	t.Helper()
	config := filterOf[*sse_to_metadatav3.SseToMetadata](t, manager, "envoy.filters.http.sse_to_metadata")
	parser := unpack[*content_jsonv3.JsonContentParser](t, config.GetResponseRules().GetContentParser().GetTypedConfig())
	keys := map[string]bool{}
	for _, rule := range parser.GetRules() {
		to := rule.GetRule().GetOnPresent()
		keys[to.GetMetadataNamespace()+"/"+to.GetKey()] = true
	}
	return keys
}

func placeOf(k *metadatav3.MetadataKey) string {
	place := k.GetKey()
	for _, s := range k.GetPath() {
		place += "/" + s.GetKey()
	}
	return place
}

func renewed(logs []*accesslogv3.AccessLog) *accesslogv3.MetadataFilter {
	for _, either := range logs[0].GetFilter().GetOrFilter().GetFilters() {
		for _, f := range either.GetAndFilter().GetFilters() {
			if m := f.GetMetadataFilter(); m != nil {
				return m
			}
		}
	}
	return nil
}

func connectionManager(t testing.TB, r *envoy.Resources) *hcmv3.HttpConnectionManager {
	t.Helper()
	return unpack[*hcmv3.HttpConnectionManager](t, r.Listeners[0].GetFilterChains()[0].GetFilters()[0].GetTypedConfig())
}

// filterOf is the configuration of the filter with that name.
func filterOf[T proto.Message](t testing.TB, manager *hcmv3.HttpConnectionManager, name string) (none T) {
	t.Helper()
	for _, f := range manager.GetHttpFilters() {
		if f.GetName() == name {
			return unpack[T](t, f.GetTypedConfig())
		}
	}
	t.Fatalf("there is no filter %s", name)
	return none
}

func unpack[T proto.Message](t testing.TB, packed *anypb.Any) (none T) {
	t.Helper()
	m, err := packed.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	config, ok := m.(T)
	if !ok {
		t.Fatalf("the configuration is a %T, not a %T", m, none)
	}
	return config
}

func TestWhatBecomesOfRequestsWithoutTheServiceIsTheGateways(t *testing.T) {
	t.Parallel()
	for _, allow := range []bool{true, false} {
		g := full()
		g.AllowUncounted = allow
		filter := filterOf[*ratelimitv3.RateLimit](t, connectionManager(t, build(t, g)), "envoy.filters.http.ratelimit")
		if filter.GetFailureModeDeny() == allow {
			t.Errorf("a gateway whose AllowUncounted is %t has failure_mode_deny %t", allow, filter.GetFailureModeDeny())
		}
	}
}
