package kube_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

// twoReplicas are two operators, to each of which an Envoy and a replica of the service are connected.
type twoReplicas struct {
	*stack.Stack
	*load

	operators map[string]*stack.Process // by identity
	metrics   map[string]string         // their addresses
	token     string                    // of somebody who may read metrics
	service   *stack.Process            // that the Envoy of the other gateway asks
	envoy     *stack.Process            // of the other gateway
	port      int                       // of the gateway of the load
	other     int                       // of the other gateway
	since     map[string]string         // transitions before the outages
}

// aSecond of load in answers: enough to see each kind of them.
const aSecond = 50

// replacedMeanwhile are objects that are edited, or that are others after the outage.
var replacedMeanwhile = []string{"RateLimitTier /edited", "ApiKeyQuota default/replaced", "ApiKeyQuota default/usurped"}

// TestOutagesOfTwoOperators takes the API server and its database away from two operators: whoever is the follower goes on to
// serve, also those who connect meanwhile, and exactly one of the two writes status afterwards.
func TestOutagesOfTwoOperators(t *testing.T) {
	t.Parallel()
	r := startTwoReplicas(t)
	r.load = startLoad(t, r.port, "everything runs")
	r.through(t, aSecond)
	r.withoutAPIServer(t)
	r.withoutEtcd(t)
	r.through(t, aSecond)
	r.end(t)
	if diff := cmp.Diff(r.since, transitions(t, r.Stack, replacedMeanwhile...)); diff != "" {
		t.Errorf("conditions of objects that nobody touched (-before the outages +after):\n%s", diff)
	}
	for _, o := range r.operators {
		stop(t, o) // The API server would wait for them.
	}
}

func startTwoReplicas(t *testing.T) *twoReplicas {
	t.Helper()
	r := &twoReplicas{Stack: newStack(t), operators: map[string]*stack.Process{}, metrics: map[string]string{}, other: freePort(t)}
	r.token = scraper(t, r.Stack)
	for _, identity := range []string{"operator-0", "operator-1"} {
		r.metrics[identity] = fmt.Sprintf("127.0.0.2:%d", freePort(t)) // It is held at 127.0.0.1 alone.
		r.operators[identity] = startOperator(t, r.Stack, identity, "--lease-duration", "10s", "--metrics-address", r.metrics[identity])
		awaitLeader(t, r.Stack, "operator-0")
	}
	r.onlyFront("operator-0")
	r.port, _ = startMain(t, r.Stack, startService(t, r.Stack, "ratelimit-0"), edited(1000), holder("edited", "key-edited"),
		plan("replaced", perMinute(1000)), holder("replaced", "key-before"), plan("usurped", perMinute(1000)), holder("usurped", "key-usurped"))
	r.onlyFront("operator-1")
	apply(t, r.Stack, gateway("default", "other", r.other))
	r.service = startService(t, r.Stack, "ratelimit-1")
	r.envoy = startEnvoy(t, r.Stack, "default/other", "envoy-other", r.service)
	awaitAllReady(t, r.Stack)
	for _, key := range []string{"key-before", "key-usurped"} {
		awaitStatus(t, r.other, key, http.StatusOK)
	}
	if status, _ := scrape(t, r.metrics["operator-0"], ""); status != http.StatusUnauthorized {
		t.Errorf("metrics are answered %d to somebody unknown, want 401", status)
	}
	r.since = transitions(t, r.Stack, replacedMeanwhile...)
	return r
}

// withoutAPIServer also replaces objects of which the operators hear only that they are others now.
func (r *twoReplicas) withoutAPIServer(t *testing.T) {
	t.Helper()
	follower := r.follower(t)
	r.phase("the API server is away")
	must(t, r.KillAPIServer(t.Context()))
	r.joins(t, follower)
	r.through(t, aSecond)
	r.phase("the operators hear of nothing")
	for _, o := range r.operators {
		must(t, o.Pause())
	}
	must(t, r.StartAPIServer(t.Context()))
	r.replace(t)
	r.phase("the API server is back")
	for _, o := range r.operators {
		must(t, o.Resume())
	}
	awaitReady(t, r.Stack, &v1alpha1.ApiKeyQuota{}, "default", "replaced")
	for _, port := range []int{r.port, r.other} {
		awaitStatus(t, port, "key-after", http.StatusOK)
		awaitStatus(t, port, "key-before", http.StatusUnauthorized)
		awaitStatus(t, port, "key-usurped", http.StatusUnauthorized)
	}
	r.expectUsurperAlone(t)
	r.expectOneWriter(t, 0, http.StatusTooManyRequests)
	r.through(t, aSecond)
}

func (r *twoReplicas) withoutEtcd(t *testing.T) {
	t.Helper()
	follower := r.follower(t)
	r.phase("etcd is paused")
	must(t, r.PauseEtcd())
	r.joins(t, follower)
	r.through(t, tenSeconds)
	r.phase("etcd goes on")
	must(t, r.ResumeEtcd())
	r.expectOneWriter(t, 1000, http.StatusOK)
}

// joins has an Envoy come that knows nothing, and that only one of the operators tells what it serves.
func (r *twoReplicas) joins(t *testing.T, operator string) {
	t.Helper()
	r.onlyFront(operator)
	kill(t, r.envoy)
	r.envoy = startEnvoy(t, r.Stack, "default/other", "envoy-other", r.service)
	awaitStatus(t, r.other, unlimitedKey, http.StatusOK)
}

// replace deletes quotas and makes others of their names: one has another key, and one is on a plan that is not there.
func (r *twoReplicas) replace(t *testing.T) {
	t.Helper()
	for _, name := range []string{"replaced", "usurped"} {
		must(t, r.Client.Delete(t.Context(), &v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}))
	}
	must(t, r.Client.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "replaced"}}))
	apply(t, r.Stack, holder("replaced", "key-after"))
	apply(t, r.Stack, `apiVersion: tierkeeper.io/v1alpha1
kind: ApiKeyQuota
metadata: {name: usurped, namespace: default}
spec: {tierRef: {name: nowhere}, keys: [{name: primary, secretKeyRef: {name: usurped, key: token}}]}
`)
}

// expectUsurperAlone expects that a quota that was never accepted has nothing of the former one of its name, and deletes it.
func (r *twoReplicas) expectUsurperAlone(t *testing.T) {
	t.Helper()
	q := &v1alpha1.ApiKeyQuota{}
	awaitCondition(t, r.Stack, q, "default", "usurped", v1alpha1.ConditionAccepted, v1alpha1.ReasonTierNotFound)
	if c := meta.FindStatusCondition(q.Status.Conditions, v1alpha1.ConditionProgrammed); c == nil || c.Reason != v1alpha1.ReasonNotAccepted {
		t.Errorf("it is Programmed: %+v", c)
	}
	if q.Status.LastAccepted != nil {
		t.Errorf("it goes on as %s", q.Status.LastAccepted.Spec.Raw)
	}
	must(t, r.Client.Delete(t.Context(), q))
}

// expectOneWriter expects that an edit is obeyed by whoever is connected to either operator, and that only the one that is elected
// has written its status.
func (r *twoReplicas) expectOneWriter(t *testing.T, requests, want int) {
	t.Helper()
	leader := awaitLeading(t, r.Stack)
	awaitAllReady(t, r.Stack)
	before := r.writes(t)
	expectObeyed(t, r.Stack, r.port, requests, want)
	awaitStatus(t, r.other, "key-edited", want)
	after := r.writes(t)
	for identity, process := range r.operators {
		expectRunning(t, process)
		if wrote := after[identity] - before[identity]; (wrote > 0) != (identity == leader) {
			t.Errorf("%s has written %d times, and %s is elected", identity, wrote, leader)
		}
	}
	if now := holderOf(leaseOf(t, r.Stack)); now != leader {
		t.Errorf("%s is elected now, and was %s, though nothing has happened", now, leader)
	}
}

// onlyFront has everybody who connects find one operator. Who is connected stays.
func (r *twoReplicas) onlyFront(identity string) {
	for other, process := range r.operators {
		if other != identity {
			r.Front.Remove(process.Address)
		}
	}
	r.Front.Add(r.operators[identity].Address)
}

func (r *twoReplicas) follower(t *testing.T) string {
	t.Helper()
	if awaitLeading(t, r.Stack) == "operator-0" {
		return "operator-1"
	}
	return "operator-0"
}

var writesOf = regexp.MustCompile(`(?m)^tierkeeper_status_writes_total\{result="ok"\} (\d+)$`)

// writes is how often each operator has written status, by its metrics.
func (r *twoReplicas) writes(t *testing.T) map[string]int {
	t.Helper()
	all := map[string]int{}
	for identity, address := range r.metrics {
		status, body := scrape(t, address, r.token)
		if status != http.StatusOK {
			t.Fatalf("the metrics of %s are answered %d %s", identity, status, body)
		}
		if match := writesOf.FindStringSubmatch(body); match != nil {
			all[identity], _ = strconv.Atoi(match[1])
		}
	}
	return all
}

// scrape reads the metrics of an operator, whose certificate nobody has signed.
func scrape(t *testing.T, address, token string) (status int, body string) {
	t.Helper()
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := h.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

// scraper makes a service account that may read metrics, and returns its token.
func scraper(t *testing.T, s *stack.Stack) string {
	t.Helper()
	apply(t, s, `apiVersion: v1
kind: ServiceAccount
metadata: {name: scraper, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: scraper}
rules: [{nonResourceURLs: [/metrics], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: scraper}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: scraper}
subjects: [{kind: ServiceAccount, name: scraper, namespace: default}]
`)
	set, err := kubernetes.NewForConfig(s.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	request, err := set.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "scraper", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}
