package kube_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

// An installation is one whose operator is restarted now and then.
type installation struct {
	*stack.Stack

	operator, service *stack.Process
	operators         int
	port              int // of gateway edge/main
}

// restart starts another operator, which knows nothing but what stands in the cluster. Meanwhile is called while none runs.
func (i *installation) restart(t *testing.T, meanwhile func()) {
	t.Helper()
	if err := i.operator.Stop(); err != nil {
		t.Fatal(err)
	}
	meanwhile()
	i.operators++
	i.operator = startOperator(t, i.Stack, fmt.Sprintf("operator-%d", i.operators))
	settled(t, i.Stack, "plenty")
}

// TestBadInputCostsNoMoreThanItMust breaks what is in use, and expects that it goes on.
func TestBadInputCostsNoMoreThanItMust(t *testing.T) {
	t.Parallel()
	i := &installation{port: freePort(t)}
	i.Stack, i.operator, i.service = running(t)
	inNamespaces(t, i.Stack, "team", "edge")
	apply(t, i.Stack, tier("plenty", 1000)+gateway("edge", "main", i.port, "allowedKeys: {namespaces: {from: All}}"))
	startEnvoy(t, i.Stack, "edge/main", "envoy-0", i.service)
	awaitStatus(t, i.port, "sk-unknown", http.StatusUnauthorized)
	t.Run("a Secret", i.breaksASecret)
	t.Run("a tier that is deleted", i.deletesATier)
	t.Run("edits while no operator runs", i.editsUnseen)
	t.Run("a model that nobody names", i.namesUnknownModels)
	t.Run("a storm of rejections", i.storms)
	t.Run("an operator of another version", i.meetsAnotherVersion)
}

// breaksASecret takes away, empties and changes the Secret of a key.
func (i *installation) breaksASecret(t *testing.T) {
	const accepted, goesOn = v1alpha1.ConditionAccepted, "The key goes on as it was read last"
	refused := func(reason string) {
		t.Helper()
		c := awaitCondition(t, i.Stack, ofKind(policy.KindQuota), "team", "app", accepted, reason)
		if !strings.HasPrefix(c.Message, "spec.keys[name=main].secretKeyRef.") || !strings.Contains(c.Message, goesOn) {
			t.Errorf("the message does not say which key goes on: %s", c.Message)
		}
		answers(t, i.port, "sk-first", http.StatusOK)
	}
	apply(t, i.Stack, secret("team", "app", "sk-first")+quotaOf("team", "app", "plenty", fromSecret("app")))
	awaitReady(t, i.Stack, &v1alpha1.ApiKeyQuota{}, "team", "app")
	i.restart(t, func() {})
	answers(t, i.port, "sk-first", http.StatusOK)
	removeSecret(t, i.Stack, "team", "app")
	refused(v1alpha1.ReasonSecretNotFound)
	i.restart(t, func() {})
	refused(v1alpha1.ReasonSecretNotFound)
	apply(t, i.Stack, secret("team", "app", "sk-first"))
	awaitReady(t, i.Stack, &v1alpha1.ApiKeyQuota{}, "team", "app")
	apply(t, i.Stack, secret("team", "app", ""))
	refused(v1alpha1.ReasonKeyEmpty)
	i.restart(t, func() {})
	refused(v1alpha1.ReasonKeyEmpty)
	apply(t, i.Stack, secret("team", "app", "sk-second"))
	awaitReady(t, i.Stack, &v1alpha1.ApiKeyQuota{}, "team", "app")
	awaitStatus(t, i.port, "sk-second", http.StatusOK)
	answers(t, i.port, "sk-first", http.StatusUnauthorized)
}

// deletesATier deletes one that is in use: its limits hold, and its counts go on.
func (i *installation) deletesATier(t *testing.T) {
	apply(t, i.Stack, tier("three", 3)+quota("team", "left", "three"))
	awaitReady(t, i.Stack, &v1alpha1.ApiKeyQuota{}, "team", "left")
	answers(t, i.port, "sk-left", http.StatusOK)
	remove(t, i.Stack, &v1alpha1.RateLimitTier{}, "", "three")
	awaitCondition(t, i.Stack, ofKind(policy.KindQuota), "team", "left", v1alpha1.ConditionAccepted, v1alpha1.ReasonTierNotFound)
	settled(t, i.Stack, "plenty")
	answers(t, i.port, "sk-left", http.StatusOK)
	i.restart(t, func() {})
	awaitCondition(t, i.Stack, ofKind(policy.KindQuota), "team", "left", v1alpha1.ConditionAccepted, v1alpha1.ReasonTierNotFound)
	answers(t, i.port, "sk-left", http.StatusOK, http.StatusTooManyRequests)
	apply(t, i.Stack, tier("three", 4))
	awaitReady(t, i.Stack, &v1alpha1.ApiKeyQuota{}, "team", "left")
	answers(t, i.port, "sk-left", http.StatusOK, http.StatusTooManyRequests)
}

// editsUnseen breaks a quota and a gateway while no operator sees it.
func (i *installation) editsUnseen(t *testing.T) {
	other := freePort(t)
	apply(t, i.Stack, tier("two", 2)+quota("team", "unseen", "two")+gateway("edge", "unseen", other, "allowedKeys: {namespaces: {from: All}}"))
	envoy := startEnvoy(t, i.Stack, "edge/unseen", "envoy-unseen", i.service)
	awaitReady(t, i.Stack, &v1alpha1.ApiKeyQuota{}, "team", "unseen")
	awaitStatus(t, other, "sk-unknown", http.StatusUnauthorized)
	awaitReady(t, i.Stack, &v1alpha1.QuotaGateway{}, "edge", "unseen")
	i.restart(t, func() {
		apply(t, i.Stack, quota("team", "unseen", "two", perDay(3))+
			gateway("edge", "unseen", other, "allowedKeys: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: Near}]}}}"))
	})
	awaitCondition(t, i.Stack, ofKind(policy.KindQuota), "team", "unseen", v1alpha1.ConditionAccepted, v1alpha1.ReasonOverrideNotPermitted)
	awaitCondition(t, i.Stack, ofKind(policy.KindGateway), "edge", "unseen", v1alpha1.ConditionAccepted, v1alpha1.ReasonInvalidSelector)
	answers(t, other, "sk-unseen", http.StatusOK)
	// A new Envoy knows nothing but what this operator tells it.
	if err := envoy.Stop(); err != nil {
		t.Fatal(err)
	}
	startEnvoy(t, i.Stack, "edge/unseen", "envoy-unseen", i.service)
	awaitStatus(t, other, "sk-unknown", http.StatusUnauthorized)
	answers(t, other, "sk-unseen", http.StatusOK, http.StatusTooManyRequests)
}

// namesUnknownModels limits models that no ModelLimit names, which is in order, and asks for one where that is denied.
func (i *installation) namesUnknownModels(t *testing.T) {
	strict := freePort(t)
	apply(t, i.Stack, quota("team", "modeller", "plenty", `models: [{model: "nobody-knows-*", limits: {rates: [{metric: Requests, per: Day, max: 1}]}}]`)+
		gateway("edge", "strict", strict, "allowedKeys: {namespaces: {from: All}}", "unknownModels: {action: Deny}"))
	startEnvoy(t, i.Stack, "edge/strict", "envoy-strict", i.service)
	awaitReady(t, i.Stack, &v1alpha1.ApiKeyQuota{}, "team", "modeller")
	awaitReady(t, i.Stack, &v1alpha1.QuotaGateway{}, "edge", "strict")
	awaitStatus(t, strict, "sk-unknown", http.StatusUnauthorized)
	answers(t, i.port, "sk-modeller", http.StatusOK, http.StatusOK)
	answers(t, strict, "sk-modeller", http.StatusNotFound)
	apply(t, i.Stack, modelLimit("known", `models: ["gpt-4o"]`, "shared: {concurrency: {max: 9}}"))
	awaitReady(t, i.Stack, &v1alpha1.ModelLimit{}, "", "known")
	answers(t, strict, "sk-modeller", http.StatusOK)
}

// storms edits a gateway again and again to what its Envoy rejects. Others are served meanwhile, and writes end with the edits.
func (i *installation) storms(t *testing.T) {
	const edits = 50
	taken := []int{occupiedPort(t), occupiedPort(t)}
	apply(t, i.Stack, gateway("edge", "stormy", taken[0]))
	startEnvoy(t, i.Stack, "edge/stormy", "envoy-stormy", i.service)
	awaitCondition(t, i.Stack, ofKind(policy.KindGateway), "edge", "stormy", v1alpha1.ConditionProgrammed, v1alpha1.ReasonEnvoyRejected)
	changes := watchGateway(t, i.Stack, "edge", "stormy")
	for n := range edits {
		apply(t, i.Stack, gateway("edge", "stormy", taken[(n+1)%2]))
		if n == edits/2 {
			apply(t, i.Stack, quota("team", "meanwhile", "plenty"))
			awaitReady(t, i.Stack, &v1alpha1.ApiKeyQuota{}, "team", "meanwhile")
			answers(t, i.port, "sk-meanwhile", http.StatusOK)
		}
	}
	awaitCondition(t, i.Stack, ofKind(policy.KindGateway), "edge", "stormy", v1alpha1.ConditionProgrammed, v1alpha1.ReasonEnvoyRejected)
	settled(t, i.Stack, "plenty")
	// For each edit: that it is seen, that it is rejected, and how many Envoys have it.
	if n := changes() - edits; n > 3*edits {
		t.Errorf("%d edits cost %d writes of status, want at most %d", edits, n, 3*edits)
	}
	if c := condition(t, i.Stack, policy.KindGateway, "edge", "main", v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
		t.Errorf("one gateway is rejected, and another is %+v", c)
	}
	free := freePort(t)
	apply(t, i.Stack, gateway("edge", "stormy", free))
	awaitReady(t, i.Stack, &v1alpha1.QuotaGateway{}, "edge", "stormy")
	awaitStatus(t, free, "sk-unknown", http.StatusUnauthorized)
}

// watchGateway counts the changes of a gateway from now on; the count is taken once.
func watchGateway(t *testing.T, s *stack.Stack, namespace, name string) (changes func() int) {
	t.Helper()
	c, err := client.NewWithWatch(s.Cluster, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	var now v1alpha1.QuotaGateway
	if err := s.Client.Get(t.Context(), key(namespace, name), &now); err != nil {
		t.Fatal(err)
	}
	w, err := c.Watch(t.Context(), &v1alpha1.QuotaGatewayList{}, client.InNamespace(namespace), &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: now.ResourceVersion}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return func() (n int) {
		if err := s.Client.Get(t.Context(), key(namespace, name), &now); err != nil {
			t.Fatal(err)
		}
		for e := range w.ResultChan() {
			g, ok := e.Object.(*v1alpha1.QuotaGateway)
			if !ok {
				t.Fatalf("the watch ends with %+v", e.Object)
			}
			if g.Name == name && e.Type == watch.Modified {
				n++
			}
			if g.Name == name && g.ResourceVersion == now.ResourceVersion {
				return n
			}
		}
		t.Fatal("the watch ended")
		return 0
	}
}

// meetsAnotherVersion runs beside a replica whose report this version cannot read: what its clients have in force is not known.
func (i *installation) meetsAnotherVersion(t *testing.T) {
	apply(t, i.Stack, quota("team", "old", "plenty"))
	awaitReady(t, i.Stack, &v1alpha1.ApiKeyQuota{}, "team", "old")
	renew := newerReplica(t, i.Stack)
	renew()
	apply(t, i.Stack, quota("team", "new", "plenty"))
	await(t, "the new quota waits for the other replica", func() error {
		renew()
		all, err := conditionsOf(t.Context(), i.Stack, &v1alpha1.ApiKeyQuota{}, "team", "new")
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.Reason == v1alpha1.ReasonPending && strings.Contains(c.Message, "tierkeeper-operator-newer, version v9.9.9") {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %+v", all)
	})
	if c := condition(t, i.Stack, policy.KindQuota, "team", "old", v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
		t.Errorf("another version has come, and what was Ready is %+v", c)
	}
	answers(t, i.port, "sk-new", http.StatusOK)
	remove(t, i.Stack, &coordinationv1.Lease{}, stack.Namespace, "tierkeeper-operator-newer")
	awaitReady(t, i.Stack, &v1alpha1.ApiKeyQuota{}, "team", "new")
}

// newerReplica makes the lease of a replica whose report has another form. Whoever calls renew keeps it alive.
func newerReplica(t *testing.T, s *stack.Stack) (renew func()) {
	t.Helper()
	report, err := json.Marshal(map[string]any{"services": []string{"in a form of the future"}})
	if err != nil {
		t.Fatal(err)
	}
	beat := metav1.NowMicro()
	return func() {
		t.Helper()
		beat = metav1.NewMicroTime(beat.Add(1000))
		apply(t, s, fmt.Sprintf(`apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  namespace: %s
  name: tierkeeper-operator-newer
  labels: {tierkeeper.io/replica: operator}
  annotations: {tierkeeper.io/acknowledged: '%s', tierkeeper.io/version: v9.9.9}
spec: {holderIdentity: newer, renewTime: %q}
`, stack.Namespace, report, beat.UTC().Format(metav1.RFC3339Micro)))
	}
}
