package controllers

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// TestSecretsFollowTheCluster: each view has the Secrets that are there, as they are.
func TestSecretsFollowTheCluster(t *testing.T) {
	t.Parallel()
	secret := func(name, version, key string) corev1.Secret {
		kept, err := digested(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: name, ResourceVersion: version}, Data: map[string][]byte{"key": []byte(key)},
		})
		if err != nil {
			t.Fatal(err)
		}
		return *kept.(*corev1.Secret)
	}
	var g gatherer
	for _, view := range []map[string][2]string{
		{},
		{"one": {"1", "sk-1"}, "two": {"2", "sk-2"}},
		{"one": {"1", "sk-1"}, "two": {"3", "sk-3"}},
		{"two": {"3", "sk-3"}, "three": {"4", "sk-1"}},
		{},
	} {
		var items []corev1.Secret
		want := map[policy.Name]policy.Digest{}
		for name, s := range view {
			items = append(items, secret(name, s[0], s[1]))
			want[policy.Name{Namespace: "team-a", Name: name}] = policy.HashKey([]byte(s[1]))
		}
		if err := g.read(items); err != nil {
			t.Fatal(err)
		}
		got := map[policy.Name]policy.Digest{}
		for name, s := range g.secrets {
			got[name] = s.Keys["key"].Digest
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("of %v (-want +got):\n%s", view, diff)
		}
		if len(g.versions) != len(view) {
			t.Errorf("of %v it keeps %d versions", view, len(g.versions))
		}
		g.unlabelled = []policy.Name{{Namespace: "team-a", Name: "unlabelled"}}
		g.secrets[g.unlabelled[0]] = policy.Secret{}
	}
}

// TestSecretsThatAreNotReadAreNotLookedFor: whether they are there, and lack the label, is not for this operator to know.
func TestSecretsThatAreNotReadAreNotLookedFor(t *testing.T) {
	t.Parallel()
	in := policy.Input{SecretNamespaces: []string{"team-a"}}
	for _, namespace := range []string{"team-a", "team-b"} {
		q := v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "app"}}
		q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", SecretKeyRef: &v1alpha1.SecretKeyRef{Name: "keys", Key: "main"}}}
		in.Quotas = append(in.Quotas, q)
	}
	if diff := cmp.Diff([]policy.Name{{Namespace: "team-a", Name: "keys"}}, missing(&in)); diff != "" {
		t.Errorf("looked for (-want +got):\n%s", diff)
	}
}
