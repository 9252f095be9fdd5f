package policy_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// secret and namespace are what a case may say of these kinds.
type secret struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Type              string            `json:"type"`
	StringData        map[string]string `json:"stringData"`
}

type namespace struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
}

// readInput reads the manifests of a file. It knows types, not the rules of the schema: those belong to package api.
func readInput(t testing.TB, path ...string) policy.Input {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	in := policy.Input{Secrets: map[policy.Name]policy.Secret{}}
	for document := range bytes.SplitSeq(content, []byte("\n---\n")) {
		addDocument(t, &in, document)
	}
	return in
}

func addDocument(t testing.TB, in *policy.Input, document []byte) {
	t.Helper()
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(document, &meta); err != nil {
		t.Fatalf("reading a manifest: %v\n%s", err, document)
	}
	switch meta.Kind {
	case "Secret":
		s := decode[secret](t, document)
		known := policy.Secret{}
		if s.Labels[v1alpha1.SecretLabel] == "true" {
			values := map[string][]byte{}
			for name, value := range s.StringData {
				values[name] = []byte(value)
			}
			known = policy.ReadSecret(s.Type, values)
		}
		in.Secrets[policy.Name{Namespace: s.Namespace, Name: s.Name}] = known
	case "Namespace":
		n := decode[namespace](t, document)
		in.Namespaces = append(in.Namespaces, policy.Namespace{Name: n.Name, Labels: n.Labels})
	case policy.KindTier:
		in.Tiers = append(in.Tiers, new(decode[v1alpha1.RateLimitTier](t, document)))
	case policy.KindModel:
		in.Models = append(in.Models, new(decode[v1alpha1.ModelLimit](t, document)))
	case policy.KindQuota:
		in.Quotas = append(in.Quotas, new(decode[v1alpha1.ApiKeyQuota](t, document)))
	case policy.KindUser:
		in.Users = append(in.Users, new(decode[v1alpha1.UserQuota](t, document)))
	case policy.KindGateway:
		in.Gateways = append(in.Gateways, new(decode[v1alpha1.QuotaGateway](t, document)))
	default:
		t.Fatalf("kind %q is unknown:\n%s", meta.Kind, document)
	}
}

func decode[T any](t testing.TB, document []byte) (v T) {
	t.Helper()
	if err := yaml.UnmarshalStrict(document, &v); err != nil {
		t.Fatalf("decoding a manifest: %v\n%s", err, document)
	}
	return v
}
