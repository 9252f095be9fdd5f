package controllers

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// newTestGatherer finds these objects in its cache.
func newTestGatherer(objects ...client.Object) *gatherer {
	cache := fake.NewClientBuilder().WithScheme(Scheme()).WithObjects(objects...).Build()
	return newGatherer(cache, newUnlabelled(cache, clock.RealClock{}, func() {}), nil)
}

// secretOf holds a key as the cache has it.
func secretOf(t testing.TB, name policy.Name, version, key string) *corev1.Secret {
	t.Helper()
	kept, err := digested(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, ResourceVersion: version, Labels: labelled},
		Data:       map[string][]byte{"key": []byte(key)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return kept.(*corev1.Secret)
}

// TestAViewHasWhatEventsTold: each view has the quotas and the Secrets that are there, as they are, but no quota that is being deleted.
func TestAViewHasWhatEventsTold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		g := newTestGatherer()
		quotas, secrets := map[string]string{}, map[policy.Name]string{}
		for version := range rapid.IntRange(0, 20).Draw(r, "events") {
			text, there := fmt.Sprint(version), rapid.IntRange(0, 2).Draw(r, "there") > 0
			var deleted *metav1.Time
			name := policy.Name{Namespace: "team-a", Name: fmt.Sprint("o", rapid.IntRange(0, 4).Draw(r, "name"))}
			if rapid.Bool().Draw(r, "secret") {
				secrets[name] = text
				if !there {
					delete(secrets, name)
				}
				g.note(secretOf(t, name, text, text), there)
			} else {
				if rapid.IntRange(0, 4).Draw(r, "held up by a finalizer") == 0 {
					deleted = &metav1.Time{Time: time.Unix(1, 0)}
				}
				quotas[name.String()] = text
				if !there || deleted != nil {
					delete(quotas, name.String())
				}
				g.note(&v1alpha1.ApiKeyQuota{
					ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, ResourceVersion: text, DeletionTimestamp: deleted},
					Spec:       v1alpha1.ApiKeyQuotaSpec{Keys: []v1alpha1.APIKey{{SecretKeyRef: &v1alpha1.SecretKeyRef{Name: name.Name}}}},
				}, there)
			}
			if rapid.Bool().Draw(r, "more") {
				continue
			}
			in, err := g.gather(t.Context())
			if err != nil {
				r.Fatal(err)
			}
			has := map[string]string{}
			for _, q := range in.Quotas {
				has[objectName(q).String()] = q.ResourceVersion
			}
			if diff := cmp.Diff(quotas, has); diff != "" || len(in.Quotas) != len(quotas) {
				r.Fatalf("of %d quotas (-want +got):\n%s", len(in.Quotas), diff)
			}
			for name, text := range secrets {
				if version, _ := g.version(name); in.Secrets[name].Keys["key"].Digest != policy.HashKey([]byte(text)) || version != text {
					r.Fatalf("Secret %s is not as it is at %s", name, text)
				}
			}
			if len(in.Secrets) != len(secrets) || len(g.versions) != len(secrets) || len(g.fresh) > 0 {
				r.Fatalf("it has %v, of which %v may be read and %d are new, want %v", slices.Collect(maps.Keys(in.Secrets)), g.versions, len(g.fresh), secrets)
			}
			g.unlabelled = []policy.Name{{Namespace: "team-a", Name: "o4"}}
			if _, labelled := secrets[g.unlabelled[0]]; labelled {
				g.unlabelled = nil
			} else {
				g.secrets[g.unlabelled[0]] = policy.Secret{}
			}
		}
	})
}

// TestAViewStaysAsItIs: what comes later is for the next.
func TestAViewStaysAsItIs(t *testing.T) {
	t.Parallel()
	g := newTestGatherer()
	quota := func(name, version string) *v1alpha1.ApiKeyQuota {
		return &v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: name, ResourceVersion: version}}
	}
	for _, name := range []string{"one", "two", "three"} {
		g.note(quota(name, "1"), true)
	}
	g.note(secretOf(t, policy.Name{Namespace: "team-a", Name: "s"}, "1", "sk-1"), true)
	in, err := g.gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g.note(quota("one", "2"), true)
	g.note(quota("two", "1"), false)
	g.note(secretOf(t, policy.Name{Namespace: "team-a", Name: "s"}, "1", "sk-1"), false)
	var got []string
	for _, q := range in.Quotas {
		got = append(got, q.Name+" "+q.ResourceVersion)
	}
	if diff := cmp.Diff([]string{"one 1", "two 1", "three 1"}, got); diff != "" || len(in.Secrets) != 1 {
		t.Errorf("%d Secrets, quotas (-want +got):\n%s", len(in.Secrets), diff)
	}
}

// TestSecretsThatAreNotReadAreNotLookedFor: whether they are there, and lack the label, is not for this operator to know.
func TestSecretsThatAreNotReadAreNotLookedFor(t *testing.T) {
	t.Parallel()
	in := policy.Input{SecretNamespaces: []string{"team-a"}}
	for _, namespace := range []string{"team-a", "team-b"} {
		q := v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "app"}}
		q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", SecretKeyRef: &v1alpha1.SecretKeyRef{Name: "keys", Key: "main"}}}
		in.Quotas = append(in.Quotas, &q)
	}
	if diff := cmp.Diff([]policy.Name{{Namespace: "team-a", Name: "keys"}}, missing(&in)); diff != "" {
		t.Errorf("looked for (-want +got):\n%s", diff)
	}
}
