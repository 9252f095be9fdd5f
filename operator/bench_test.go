package operator

import (
	"fmt"
	"log/slog"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

// BenchmarkPublishOneGatewayOfMany is what it costs to compile and publish a change of one of many gateways.
func BenchmarkPublishOneGatewayOfMany(b *testing.B) {
	for _, n := range []int{100, 1_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			in, names := policy.Input{Secrets: map[policy.Name]policy.Secret{}}, make([]policy.Name, n)
			for i := range n {
				g := gateway(fmt.Sprintf("gateway-%d", i))
				in.Gateways, names[i] = append(in.Gateways, &g), policy.Name{Namespace: g.Namespace, Name: g.Name}
				in.Secrets[policy.Name{Namespace: g.Namespace, Name: "provider"}] = policy.ReadSecret("", map[string][]byte{"key": []byte("sk-provider")})
			}
			content := controllers.Content{
				Unread: func(policy.Name) bool { return false },
				Usable: in.Usable,
				Value:  func(policy.SecretValue) []byte { return []byte("sk-provider") },
			}
			p, compiler, mark := newPublisher(envoy.Settings{}, slog.New(slog.DiscardHandler)), policy.Compiler{}, uint64(0)
			publish := func() {
				mark++
				table, _ := compiler.Compile(in)
				if err := p.Publish(b.Context(), controllers.Publication{Table: table, Gateways: names, Content: content, Mark: mark}); err != nil {
					b.Fatal(err)
				}
			}
			publish()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				g := in.Gateways[i*7%n]
				g.Spec.Requests = &v1alpha1.Requests{MaxBodyBytes: int64(i + 1)}
				g.Generation++
				publish()
			}
		})
	}
}

// gateway forwards six kinds of request to a provider, with the gateway's own key there.
func gateway(name string) v1alpha1.QuotaGateway {
	g := v1alpha1.QuotaGateway{}
	g.Namespace, g.Name, g.UID, g.Generation = "edge", name, types.UID(name), 1
	g.Spec.Listeners = []v1alpha1.Listener{{Name: "http", Port: 8080, Protocol: v1alpha1.ListenerProtocolHTTP}}
	g.Spec.Identity.Sources = []v1alpha1.KeySource{{Header: "authorization", Prefix: "Bearer "}}
	g.Spec.Backends = []v1alpha1.Backend{{
		Name: "provider", Endpoints: []v1alpha1.Endpoint{{Address: "api.example.com", Port: 80}},
		Credential: &v1alpha1.BackendCredential{Header: "authorization", Prefix: "Bearer ", SecretKeyRef: v1alpha1.SecretKeyRef{Name: "provider", Key: "key"}},
	}}
	for i := range 6 {
		path := v1alpha1.PathMatch{Type: v1alpha1.PathMatchExact, Value: fmt.Sprintf("/v1/%d", i)}
		g.Spec.Routes = append(g.Spec.Routes, v1alpha1.Route{
			Name: fmt.Sprint(i), BackendName: "provider", Protocol: v1alpha1.ProtocolOpenAIChatCompletions, Resource: "chat",
			Type: v1alpha1.RouteTypeBackend, Matches: []v1alpha1.Match{{Path: path}},
		})
	}
	return g
}
