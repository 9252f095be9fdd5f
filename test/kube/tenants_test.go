package kube_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

// tenancy is what a tenant finds: plans and gateways for others, and another team with a key. The tenant's namespace sorts before
// that of its victim, so that nothing here is refused for its place in the alphabet only.
const tenancy = `apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {namespace: team-a, name: tenant}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: tierkeeper-edit}
subjects: [{kind: ServiceAccount, namespace: team-a, name: tenant}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {namespace: team-a, name: tenant-views}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: tierkeeper-view}
subjects: [{kind: ServiceAccount, namespace: team-a, name: tenant}]
---
# What the role edit of Kubernetes allows beside our kinds.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {namespace: team-a, name: secrets}
rules: [{apiGroups: [""], resources: [secrets, configmaps], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {namespace: team-a, name: secrets}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: secrets}
subjects: [{kind: ServiceAccount, namespace: team-a, name: tenant}]
---
`

// A tenant may write what a role binding to tierkeeper-edit allows in one namespace.
type tenant struct {
	*stack.Stack

	client      client.Client
	open, other int // ports of gateways: for all namespaces, and for that of the other team
}

// TestATenantStaysInItsBounds tries with a tenant's rights whatever they allow.
func TestATenantStaysInItsBounds(t *testing.T) {
	t.Parallel()
	s, _, service := running(t)
	inNamespaces(t, s, "team-a", "team-b", "edge")
	identity, _, err := s.ServiceAccount("team-a", "tenant")
	if err != nil {
		t.Fatal(err)
	}
	own, err := client.New(identity, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	a := &tenant{Stack: s, client: own, open: freePort(t), other: freePort(t)}
	apply(t, s, tenancy+tier("free", 3)+
		tier("paid", 1000, "allowedNamespaces: {from: Selector, selector: {matchLabels: {team: team-b}}}")+
		secret("team-b", "key", "sk-victim")+quotaOf("team-b", "victim", "free", fromSecret("key"), "user: ann")+
		gateway("edge", "open", a.open, "allowedKeys: {namespaces: {from: All}}")+"\n---\n"+gateway("team-b", "own", a.other))
	startEnvoy(t, s, "edge/open", "envoy-0", service)
	startEnvoy(t, s, "team-b/own", "envoy-1", service)
	for _, port := range []int{a.open, a.other} {
		awaitStatus(t, port, "sk-unknown", http.StatusUnauthorized)
	}
	awaitReady(t, s, &v1alpha1.ApiKeyQuota{}, "team-b", "victim")
	t.Run("another's tier", a.takesATier)
	t.Run("an override above its tier", a.raisesALimit)
	t.Run("another's gateway", a.takesAGateway)
	t.Run("another's Secret", a.namesASecret)
	t.Run("another's key", a.claimsAKey)
	t.Run("another's user", a.limitsAUser)
	t.Run("a forged status", a.forgesAStatus)
	t.Run("what is not its own", a.writesElsewhere)
}

// writes creates an object of the tenant's, or changes it.
func (a *tenant) writes(t *testing.T, text string) {
	t.Helper()
	if err := a.apply(t, text); err != nil {
		t.Fatal(err)
	}
}

func (a *tenant) apply(t *testing.T, text string) error {
	t.Helper()
	o := parse(t, text)
	return a.client.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("tenant"), client.ForceOwnership)
}

// refused expects that a quota of the tenant is not accepted for a reason, and that its key is of no use.
func (a *tenant) refused(t *testing.T, name, reason string) {
	t.Helper()
	awaitCondition(t, a.Stack, ofKind(policy.KindQuota), "team-a", name, v1alpha1.ConditionAccepted, reason)
	settled(t, a.Stack, "free")
	answers(t, a.open, "sk-"+name, http.StatusUnauthorized)
}

func (a *tenant) takesATier(t *testing.T) {
	a.writes(t, quota("team-a", "promoted", "paid"))
	a.refused(t, "promoted", v1alpha1.ReasonTierNotPermitted)
	// Neither does a quota get there that was accepted on a tier of its own.
	a.writes(t, quota("team-a", "climbs", "free"))
	awaitReady(t, a.Stack, &v1alpha1.ApiKeyQuota{}, "team-a", "climbs")
	a.writes(t, quota("team-a", "climbs", "paid"))
	awaitCondition(t, a.Stack, ofKind(policy.KindQuota), "team-a", "climbs", v1alpha1.ConditionAccepted, v1alpha1.ReasonTierNotPermitted)
	settled(t, a.Stack, "free")
	answers(t, a.open, "sk-climbs", http.StatusOK, http.StatusOK, http.StatusOK, http.StatusTooManyRequests)
}

func (a *tenant) raisesALimit(t *testing.T) {
	a.writes(t, quota("team-a", "greedy", "free", perDay(4)))
	a.refused(t, "greedy", v1alpha1.ReasonOverrideNotPermitted)
	a.writes(t, quota("team-a", "unlimited", "free", "limits: {rates: [{metric: Requests, per: Day, mode: Unlimited}]}"))
	a.refused(t, "unlimited", v1alpha1.ReasonOverrideNotPermitted)
	// A quota that tries nothing but to be counted less still enforces.
	a.writes(t, quota("team-a", "shadow", "free", "enforcement: Shadow"))
	awaitReady(t, a.Stack, &v1alpha1.ApiKeyQuota{}, "team-a", "shadow")
	answers(t, a.open, "sk-shadow", http.StatusOK, http.StatusOK, http.StatusOK, http.StatusTooManyRequests)
}

func (a *tenant) takesAGateway(t *testing.T) {
	a.writes(t, quota("team-a", "guest", "free"))
	awaitReady(t, a.Stack, &v1alpha1.ApiKeyQuota{}, "team-a", "guest")
	answers(t, a.open, "sk-guest", http.StatusOK)
	answers(t, a.other, "sk-guest", http.StatusUnauthorized)
}

// namesASecret names one by the name that it has elsewhere: no field says in which namespace.
func (a *tenant) namesASecret(t *testing.T) {
	a.writes(t, quotaOf("team-a", "reader", "free", fromSecret("key")))
	c := awaitCondition(t, a.Stack, ofKind(policy.KindQuota), "team-a", "reader", v1alpha1.ConditionAccepted, v1alpha1.ReasonSecretNotFound)
	if !strings.Contains(c.Message, "namespace team-a") {
		t.Errorf("the message does not say where the Secret is missing: %s", c.Message)
	}
	elsewhere := quotaOf("team-a", "reader", "free", "{name: main, secretKeyRef: {name: key, key: token, namespace: team-b}}")
	if err := client.WithFieldValidation(a.client, "Strict").Create(t.Context(), parse(t, elsewhere)); !apierrors.IsBadRequest(err) {
		t.Errorf("a key in a Secret of another namespace: %v, want that no such field is known", err)
	}
	for _, verb := range []func() error{
		func() error { return a.client.Get(t.Context(), key("team-b", "key"), &corev1.Secret{}) },
		func() error { return a.apply(t, secret("team-b", "key", "sk-mine")) },
	} {
		forbidden(t, "the Secret of another", verb())
	}
}

// claimsAKey says that it has the key of another, and that it had it first.
func (a *tenant) claimsAKey(t *testing.T) {
	thief := parse(t, quotaOf("team-a", "thief", "free", `{name: stolen, digest: "`+digest("sk-victim")+`"}`))
	thief.SetCreationTimestamp(metav1.NewTime(time.Unix(0, 0)))
	if err := a.client.Create(t.Context(), thief); err != nil {
		t.Fatal(err)
	}
	c := awaitCondition(t, a.Stack, ofKind(policy.KindQuota), "team-a", "thief", v1alpha1.ConditionAccepted, v1alpha1.ReasonKeyClaimed)
	if strings.Contains(c.Message, "team-b") || strings.Contains(c.Message, "victim") {
		t.Errorf("the message tells a tenant whose key it is: %s", c.Message)
	}
	settled(t, a.Stack, "free")
	answers(t, a.other, "sk-victim", http.StatusOK) // It is not the tenant's, which the gateway would not admit.
	if c := condition(t, a.Stack, policy.KindQuota, "team-b", "victim", v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
		t.Errorf("the quota whose key was claimed is Ready no more: %+v", c)
	}
}

// limitsAUser limits a user of the name that a user of the other team has.
func (a *tenant) limitsAUser(t *testing.T) {
	a.writes(t, strings.Replace(userQuota("team-a", "ann"), "max: 9", "max: 0", 1))
	awaitReady(t, a.Stack, &v1alpha1.UserQuota{}, "team-a", "ann")
	answers(t, a.other, "sk-victim", http.StatusOK)
}

// forgesAStatus says that it was accepted with a limit of its choice.
func (a *tenant) forgesAStatus(t *testing.T) {
	forged := map[string]any{
		"observedGeneration": int64(1),
		"conditions": []any{map[string]any{
			"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": int64(1), "lastTransitionTime": "2020-01-01T00:00:00Z",
		}},
		"lastAccepted": map[string]any{"generation": int64(1), "spec": map[string]any{
			"tierRef": map[string]any{"name": "paid"}, "keys": []any{map[string]any{"name": "main", "digest": digest("sk-forger")}},
		}},
	}
	o := parse(t, quota("team-a", "forger", "nowhere"))
	o.Object["status"] = forged
	if err := a.client.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	a.refused(t, "forger", v1alpha1.ReasonTierNotFound)
	for tries := 0; ; tries++ { // The operator may write in between.
		if err := a.client.Get(t.Context(), key("team-a", "forger"), o); err != nil {
			t.Fatal(err)
		}
		o.Object["status"] = forged
		err := a.client.Update(t.Context(), o)
		if err == nil {
			break
		}
		if !apierrors.IsConflict(err) || tries == 10 {
			t.Fatal(err)
		}
	}
	a.refused(t, "forger", v1alpha1.ReasonTierNotFound)
	var held v1alpha1.ApiKeyQuota
	if err := a.client.Get(t.Context(), key("team-a", "forger"), &held); err != nil {
		t.Fatal(err)
	}
	if held.Status.LastAccepted != nil {
		t.Errorf("a forged status.lastAccepted stays: %+v", held.Status.LastAccepted)
	}
	forbidden(t, "apikeyquotas/status", a.client.Status().Patch(t.Context(), &held, client.RawPatch(types.MergePatchType, []byte(`{"status":{"observedGeneration":9}}`))))
	forbidden(t, "apikeyquotas/status", a.client.Status().Update(t.Context(), &held))
}

// writesElsewhere tries what no right of the tenant covers.
func (a *tenant) writesElsewhere(t *testing.T) {
	for what, text := range map[string]string{
		"a new tier":                 tier("mine", 1000),
		"its tier":                   tier("free", 1000),
		"a new ModelLimit":           modelLimit("mine", `models: ["gpt-4o"]`, "shared: {concurrency: {max: 0}}"),
		"a gateway in its namespace": gateway("team-a", "mine", a.open),
		"a gateway of others":        gateway("edge", "open", a.open),
		"a quota of others":          quota("team-b", "victim", "free"),
		"a UserQuota of others":      userQuota("team-b", "ann"),
		"labels of its namespace":    "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-a, labels: {team: team-b}}\n",
		"the operator's lease":       "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {namespace: " + stack.Namespace + ", name: tierkeeper-operator}\n",
		"a role of its own":          "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {namespace: team-a, name: more}\nrules: [{apiGroups: [tierkeeper.io], resources: [apikeyquotas/status], verbs: [patch]}]\n",
	} {
		forbidden(t, what, a.apply(t, text))
	}
	forbidden(t, "status of a gateway", a.client.Status().Patch(t.Context(),
		&v1alpha1.QuotaGateway{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "open"}}, client.RawPatch(types.MergePatchType, []byte(`{"status":null}`))))
	for _, o := range []client.Object{&v1alpha1.RateLimitTier{ObjectMeta: metav1.ObjectMeta{Name: "free"}}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a"}}} {
		forbidden(t, "deleting what it is bound by", a.client.Delete(t.Context(), o))
	}
}

func forbidden(t *testing.T, what string, err error) {
	t.Helper()
	if !apierrors.IsForbidden(err) {
		t.Errorf("%s: %v, want that it is forbidden", what, err)
	}
}

func key(namespace, name string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: name}
}
