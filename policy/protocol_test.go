package policy_test

import (
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/config/crd"
	"github.com/tierkeeper/tierkeeper/policy"
)

func TestEveryProtocolOfTheAPIIsOneOfPolicy(t *testing.T) {
	t.Parallel()
	var all []string
	for _, p := range policy.Protocols() {
		all = append(all, p.String())
	}
	slices.Sort(all)
	if diff := cmp.Diff(protocolsOfTheSchema(t), all); diff != "" {
		t.Errorf("protocols (-schema +policy):\n%s", diff)
	}
	for _, name := range all {
		var g v1alpha1.QuotaGateway
		g.Spec.Routes = []v1alpha1.Route{{
			Name: "route", Resource: "chat", Protocol: v1alpha1.RouteProtocol(name),
			Matches: []v1alpha1.Match{{Path: v1alpha1.PathMatch{Type: v1alpha1.PathMatchPathPrefix, Value: "/models"}}},
		}}
		table, _ := policy.Compile(policy.Input{Gateways: []*v1alpha1.QuotaGateway{&g}})
		if got := table.Gateways()[0].Routes[0].Protocol.String(); got != name {
			t.Errorf("a route that speaks %s is taken for one that speaks %s", name, got)
		}
	}
}

// protocolsOfTheSchema are those that the schema lets users write, sorted.
func protocolsOfTheSchema(t *testing.T) []string {
	t.Helper()
	content, err := crd.Files.ReadFile("tierkeeper.io_quotagateways.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(content, &definition); err != nil {
		t.Fatal(err)
	}
	spec := definition.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	var names []string
	for _, value := range spec.Properties["routes"].Items.Schema.Properties["protocol"].Enum {
		name, err := strconv.Unquote(string(value.Raw))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
