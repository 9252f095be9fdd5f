package kube_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

func perMinute(requests int) string {
	return fmt.Sprintf("{metric: Requests, per: Minute, max: %d}", requests)
}

// TestAnEditIsObeyed measures how long it takes from the write of an edit until Envoy obeys.
func TestAnEditIsObeyed(t *testing.T) {
	t.Parallel()
	s, _, service := running(t)
	port, _ := startMain(t, s, service, edited(1000000), holder("edited", "key-edited"))
	const edits = 20
	took := make([]time.Duration, 0, edits)
	for n := range edits {
		requests, want := 0, http.StatusTooManyRequests
		if n%2 == 1 {
			requests, want = 1000000, http.StatusOK
		}
		began := time.Now()
		apply(t, s, edited(requests))
		awaitStatusAtOnce(t, port, "key-edited", want)
		took = append(took, time.Since(began))
	}
	awaitAllReady(t, s)
	slices.Sort(took)
	t.Logf("an edit was obeyed after %s in the middle and %s at most, of %d", took[edits/2], took[edits-1], edits)
}

// awaitStatusAtOnce is awaitStatus without a pause between requests.
func awaitStatusAtOnce(t *testing.T, port int, key string, want int) {
	t.Helper()
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); {
		got, _, err := chat(t.Context(), port, key)
		if err != nil {
			t.Fatal(err)
		}
		if got == want {
			return
		}
	}
	t.Fatalf("no request was answered %d within %s", want, soon)
}

// TestWhatIsDeletedWhileNoOperatorRuns takes away a gateway, a quota and the label of a Secret, of which no operator hears. The next
// one finds it out.
func TestWhatIsDeletedWhileNoOperatorRuns(t *testing.T) {
	t.Parallel()
	s, operator, service := running(t)
	goes := freePort(t)
	stays, _ := startMain(t, s, service, holder("edited", "key-deleted"), edited(1000),
		plan("unlabelled", perMinute(1000)), holder("unlabelled", "key-unlabelled"))
	apply(t, s, gateway("default", "goes", goes))
	startEnvoy(t, s, "default/goes", "envoy-goes", service)
	awaitAllReady(t, s)
	for _, key := range []string{"key-deleted", "key-unlabelled", unlimitedKey} {
		awaitStatus(t, stays, key, http.StatusOK)
		awaitStatus(t, goes, key, http.StatusOK)
	}

	kill(t, operator)
	named := metav1.ObjectMeta{Namespace: "default", Name: "goes"}
	must(t, s.Client.Delete(t.Context(), &v1alpha1.QuotaGateway{ObjectMeta: named}))
	named.Name = "edited"
	must(t, s.Client.Delete(t.Context(), &v1alpha1.ApiKeyQuota{ObjectMeta: named}))
	named.Name = "unlabelled"
	must(t, s.Client.Patch(t.Context(), &corev1.Secret{ObjectMeta: named},
		client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"tierkeeper.io/secret":null}}}`))))
	for _, key := range []string{"key-deleted", "key-unlabelled", unlimitedKey} {
		answers(t, stays, key, http.StatusOK)
		answers(t, goes, key, http.StatusOK)
	}

	startOperator(t, s, "operator-1")
	awaitStatus(t, stays, "key-deleted", http.StatusUnauthorized)
	awaitNothing(t, goes)
	awaitCondition(t, s, &v1alpha1.ApiKeyQuota{}, "default", "unlabelled", v1alpha1.ConditionAccepted, v1alpha1.ReasonSecretNotLabelled)
	answers(t, stays, unlimitedKey, http.StatusOK)
}

// awaitNothing waits until nothing is served at a port.
func awaitNothing(t *testing.T, port int) {
	t.Helper()
	await(t, fmt.Sprintf("nothing is served at port %d", port), func() error {
		h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		if status, _, err := chatBy(t.Context(), h, port, unlimitedKey); err == nil {
			return fmt.Errorf("it answers %d", status)
		}
		return nil
	})
}
