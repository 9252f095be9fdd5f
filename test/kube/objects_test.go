package kube_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

// tier is a RateLimitTier that lets each key make so many requests a day. More is YAML of its spec.
func tier(name string, perDay int, more ...string) string {
	return fmt.Sprintf(`apiVersion: tierkeeper.io/v1alpha1
kind: RateLimitTier
metadata: {name: %s}
spec:
  limits: {rates: [{metric: Requests, per: Day, max: %d}]}
  %s
---
`, name, perDay, strings.Join(more, "\n  "))
}

// quota is an ApiKeyQuota whose key is "sk-" and the name. More is YAML of its spec.
func quota(namespace, name, tier string, more ...string) string {
	return quotaOf(namespace, name, tier, fmt.Sprintf("{name: main, digest: %q}", digest("sk-"+name)), more...)
}

// quotaOf is an ApiKeyQuota with a key.
func quotaOf(namespace, name, tier, key string, more ...string) string {
	return fmt.Sprintf(`apiVersion: tierkeeper.io/v1alpha1
kind: ApiKeyQuota
metadata: {namespace: %s, name: %s}
spec:
  tierRef: {name: %s}
  keys: [%s]
  %s
---
`, namespace, name, tier, key, strings.Join(more, "\n  "))
}

// fromSecret is a key in a Secret, under "token".
func fromSecret(name string) string {
	return fmt.Sprintf("{name: main, secretKeyRef: {name: %s, key: token}}", name)
}

// secret is one that Tierkeeper may read.
func secret(namespace, name, token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {namespace: %s, name: %s, labels: {tierkeeper.io/secret: "true"}}
stringData: {token: %q}
---
`, namespace, name, token)
}

// perDay is YAML of limits.
func perDay(limit int) string {
	return fmt.Sprintf("limits: {rates: [{metric: Requests, per: Day, max: %d}]}", limit)
}

func digest(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// inNamespaces makes namespaces.
func inNamespaces(t *testing.T, s *stack.Stack, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := s.CreateNamespace(t.Context(), name, map[string]string{"team": name}); err != nil {
			t.Fatal(err)
		}
	}
}

// ofKind makes an empty object of a kind of ours.
func ofKind(kind string) client.Object {
	switch kind {
	case policy.KindTier:
		return &v1alpha1.RateLimitTier{}
	case policy.KindModel:
		return &v1alpha1.ModelLimit{}
	case policy.KindQuota:
		return &v1alpha1.ApiKeyQuota{}
	case policy.KindUser:
		return &v1alpha1.UserQuota{}
	default:
		return &v1alpha1.QuotaGateway{}
	}
}

// condition is one of an object as it is now.
func condition(t *testing.T, s *stack.Stack, kind, namespace, name, which string) metav1.Condition {
	t.Helper()
	all, err := conditionsOf(t.Context(), s, ofKind(kind), namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	c := meta.FindStatusCondition(all, which)
	if c == nil {
		t.Fatalf("%s %s/%s has no condition %s", kind, namespace, name, which)
	}
	return *c
}

// remove deletes an object.
func remove(t *testing.T, s *stack.Stack, object client.Object, namespace, name string) {
	t.Helper()
	object.SetNamespace(namespace)
	object.SetName(name)
	if err := s.Client.Delete(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

func removeSecret(t *testing.T, s *stack.Stack, namespace, name string) {
	t.Helper()
	remove(t, s, &corev1.Secret{}, namespace, name)
}

// barriers is the namespace of what settled makes.
const barriers = "barriers"

// settled waits until the operator has compiled, told and written whatever was there before: it makes two new quotas on the
// tier, one after the other, which the operator looks at after everything older.
func settled(t *testing.T, s *stack.Stack, tier string) {
	t.Helper()
	inNamespaces(t, s, barriers)
	for _, name := range []string{"barrier-1", "barrier-2"} {
		old := &v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: barriers, Name: name}}
		if err := client.IgnoreNotFound(s.Client.Delete(t.Context(), old)); err != nil {
			t.Fatal(err)
		}
		apply(t, s, quota(barriers, name, tier))
		awaitReady(t, s, &v1alpha1.ApiKeyQuota{}, barriers, name)
	}
}

// versions are the resource versions of all objects of ours, but for those of settled.
func versions(t *testing.T, s *stack.Stack) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, list := range []client.ObjectList{
		&v1alpha1.RateLimitTierList{}, &v1alpha1.ModelLimitList{}, &v1alpha1.ApiKeyQuotaList{}, &v1alpha1.UserQuotaList{}, &v1alpha1.QuotaGatewayList{},
	} {
		if err := s.Client.List(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		if err := meta.EachListItem(list, func(o runtime.Object) error {
			object := o.(client.Object)
			if !strings.HasPrefix(object.GetName(), "barrier-") {
				all[fmt.Sprintf("%T %s/%s", object, object.GetNamespace(), object.GetName())] = object.GetResourceVersion()
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// countEvents counts what was recorded of each object, but for those of settled: a repetition counts as another.
func countEvents(t *testing.T, s *stack.Stack) map[string]int {
	t.Helper()
	var list eventsv1.EventList
	if err := s.Client.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]int{}
	for i := range list.Items {
		e := &list.Items[i]
		if strings.HasPrefix(e.Regarding.Name, "barrier-") || e.ReportingController != "tierkeeper-operator" {
			continue
		}
		count := 1
		if e.Series != nil {
			count = int(e.Series.Count)
		}
		all[fmt.Sprintf("%s %s/%s %s %s", e.Regarding.Kind, e.Regarding.Namespace, e.Regarding.Name, e.Type, e.Reason)] += count
	}
	return all
}

var errNotYet = errors.New("not yet")

// recorded reports whether an Event was.
func recorded(t *testing.T, s *stack.Stack, what string) error {
	t.Helper()
	if all := countEvents(t, s); all[what] == 0 {
		return fmt.Errorf("%q is not among %v", what, all)
	}
	return nil
}

// awaitFleet waits until an Envoy of the gateway is connected, and has everything in force.
func awaitFleet(t *testing.T, s *stack.Stack, namespace, name string) {
	t.Helper()
	await(t, "gateway "+name+" has an Envoy", func() error {
		var g v1alpha1.QuotaGateway
		if err := s.Client.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, &g); err != nil {
			return err
		}
		if e := g.Status.Envoys; e == nil || *e.Connected == 0 || *e.Acknowledged != *e.Connected {
			return fmt.Errorf("its Envoys are %+v", e)
		}
		return nil
	})
}

// answers asks a gateway with a key, and expects a status of each request, in this order. It asks again while Envoy does not reach the
// rate-limit service, as on a machine that stands still.
func answers(t *testing.T, port int, key string, statuses ...int) {
	t.Helper()
	for i, want := range statuses {
		var got int
		var body string
		await(t, fmt.Sprintf("port %d answers by the limits", port), func() (err error) {
			if got, body, err = chat(t.Context(), port, key); err == nil && got == http.StatusServiceUnavailable {
				err = fmt.Errorf("it answers %d %s", got, body)
			}
			return err
		})
		if got != want {
			t.Errorf("request %d with %s is answered %d %s, want %d", i+1, key, got, body, want)
		}
	}
}
