package controllers

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// TestWhatIsCompiled: a status that is written compiles nothing, but for what the leader says of an object that it refuses.
func TestWhatIsCompiled(t *testing.T) {
	t.Parallel()
	refusal := []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, ObservedGeneration: 1}}
	for name, tc := range map[string]struct {
		change func(*v1alpha1.ApiKeyQuota)
		want   bool
	}{
		"nothing":              {func(*v1alpha1.ApiKeyQuota) {}, false},
		"its resource version": {func(q *v1alpha1.ApiKeyQuota) { q.ResourceVersion = "9" }, false},
		"its conditions":       {func(q *v1alpha1.ApiKeyQuota) { q.Status.Conditions = refusal }, false},
		"its generation":       {func(q *v1alpha1.ApiKeyQuota) { q.Generation = 2 }, true},
		"its labels":           {func(q *v1alpha1.ApiKeyQuota) { q.Labels = map[string]string{"plan": "paid"} }, true},
		"that it is another, deleted and made again": {func(q *v1alpha1.ApiKeyQuota) { q.UID = "two" }, true},
		"what it goes on with, refused": {func(q *v1alpha1.ApiKeyQuota) {
			q.Status.Conditions, q.Status.LastAccepted = refusal, &v1alpha1.LastAccepted{Generation: 1}
		}, true},
		"what it goes on with, accepted": {func(q *v1alpha1.ApiKeyQuota) { q.Status.LastAccepted = &v1alpha1.LastAccepted{Generation: 1} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := &v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Name: "app", UID: "one", Generation: 1, ResourceVersion: "1"}}
			now := before.DeepCopy()
			tc.change(now)
			if got := says(before, now); got != tc.want {
				t.Errorf("a change of %s is compiled: %t, want %t", name, got, tc.want)
			}
		})
	}
}
