package controllers

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// judged is a quota as an API server gives it, with texts of its own.
func judged(name string) *v1alpha1.ApiKeyQuota {
	own := strings.Clone
	condition := func(kind, message string) metav1.Condition {
		return metav1.Condition{Type: own(kind), Status: metav1.ConditionStatus(own("True")), Reason: own("Fine"), Message: own(message), ObservedGeneration: 1}
	}
	q := &v1alpha1.ApiKeyQuota{
		TypeMeta: metav1.TypeMeta{Kind: own("ApiKeyQuota"), APIVersion: own("tierkeeper.io/v1alpha1")},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: own("team-a"), Name: name, UID: "1", ResourceVersion: "2", Generation: 1, Labels: map[string]string{"a": "b"},
			Annotations: map[string]string{"c": "d"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "somebody"}},
		},
	}
	q.Spec.TierRef.Name, q.Spec.User = own("free"), "ann"
	q.Spec.Keys = append(make([]v1alpha1.APIKey, 0, 4), v1alpha1.APIKey{Name: own("main"), Digest: "sha256:0"})
	q.Status.Conditions = []metav1.Condition{condition("Ready", "It is."), condition("Exhausted", "It is not."), condition("Accepted", "It is."), condition("Theirs", "")}
	q.Status.LastAccepted = &v1alpha1.LastAccepted{Generation: 1}
	q.Status.Usage = &v1alpha1.Usage{}
	return q
}

// TestTheCacheKeepsWhatTheOperatorReads compares what is kept of an object with the object.
func TestTheCacheKeepsWhatTheOperatorReads(t *testing.T) {
	t.Parallel()
	got, err := newCompact().keep(judged("app"))
	if err != nil {
		t.Fatal(err)
	}
	want := judged("app")
	want.Annotations, want.ManagedFields, want.Status.Usage = nil, nil, nil
	want.Status.Conditions = []metav1.Condition{want.Status.Conditions[2], want.Status.Conditions[0]}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	gone := cache.DeletedFinalStateUnknown{Key: "team-a/app"}
	if got, err := newCompact().keep(gone); got != gone || err != nil {
		t.Errorf("of a name it keeps %v, %v", got, err)
	}
}

// TestTheCacheKeepsATextOnce looks where the texts of two objects stand, also after more texts than are known at once.
func TestTheCacheKeepsATextOnce(t *testing.T) {
	t.Parallel()
	c := newCompact()
	for i := range maxTexts + 5 {
		if text := fmt.Sprint(i); c.once(text) != text {
			t.Fatalf("the text %q became another", text)
		}
	}
	if len(c.texts) > maxTexts {
		t.Errorf("it knows %d texts, and %d is the most", len(c.texts), maxTexts)
	}
	a, b := judged("a"), judged("b")
	for _, q := range []*v1alpha1.ApiKeyQuota{a, b} {
		if _, err := c.keep(q); err != nil {
			t.Fatal(err)
		}
	}
	for name, texts := range map[string][2]string{
		"namespace": {a.Namespace, b.Namespace},
		"kind":      {a.Kind, b.Kind},
		"tier":      {a.Spec.TierRef.Name, b.Spec.TierRef.Name},
		"key":       {a.Spec.Keys[0].Name, b.Spec.Keys[0].Name},
		"reason":    {a.Status.Conditions[0].Reason, b.Status.Conditions[1].Reason},
		"message":   {a.Status.Conditions[0].Message, b.Status.Conditions[1].Message},
	} {
		if unsafe.StringData(texts[0]) != unsafe.StringData(texts[1]) { //nolint:gosec // It only compares addresses.
			t.Errorf("the %s is kept twice", name)
		}
	}
}
