package kube_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

// A second of load is 50 requests.
const (
	someSeconds = 150
	tenSeconds  = 500
)

// outages is an installation under a steady load, from which parts are taken away.
type outages struct {
	*stack.Stack
	*load
	operator, service *stack.Process
	port, other       int // of the gateway of the load, and of one that is edited
}

// outagesEdit are the objects that are edited meanwhile.
var outagesEdit = []string{"RateLimitTier /edited", "QuotaGateway default/edited"}

// TestOutages takes away every part in turn, under a steady load: the operator, the rate-limit service while no operator runs, the
// API server and its database. Only while no process of the service listens may a request fail; every other one is answered, and
// every limit holds.
func TestOutages(t *testing.T) {
	t.Parallel()
	o := startOutages(t)
	since := transitions(t, o.Stack, outagesEdit...)
	o.load = startLoad(t, o.port, "everything runs")
	o.through(t, someSeconds)
	o.withoutOperator(t)
	o.withoutAPIServer(t)
	o.withoutEtcd(t)
	o.withoutAny(t)
	o.end(t)
	answers(t, o.port, "key-spent", http.StatusTooManyRequests)
	if diff := cmp.Diff(since, transitions(t, o.Stack, outagesEdit...)); diff != "" {
		t.Errorf("conditions of objects that nobody touched (-before the outages +after):\n%s", diff)
	}
}

func startOutages(t *testing.T) *outages {
	t.Helper()
	o := &outages{other: freePort(t)}
	o.Stack, o.operator, o.service = running(t)
	o.port, _ = startMain(t, o.Stack, o.service,
		plan("spent", "{metric: Requests, per: Month, max: 3}"), holder("spent", "key-spent"), edited(1000), holder("edited", "key-edited"))
	for range 3 {
		awaitStatus(t, o.port, "key-spent", http.StatusOK)
	}
	answers(t, o.port, "key-spent", http.StatusTooManyRequests)
	apply(t, o.Stack, gateway("default", "edited", o.other))
	startEnvoy(t, o.Stack, "default/edited", "envoy-edited", o.service)
	awaitAllReady(t, o.Stack)
	return o
}

func (o *outages) withoutOperator(t *testing.T) {
	t.Helper()
	watched := record(t, o.Stack)
	kill(t, o.operator)
	o.phase("no operator runs")
	o.through(t, someSeconds)
	o.restartService(t)
	answers(t, o.port, "key-nobodys", http.StatusUnauthorized)
	o.through(t, someSeconds)
	o.phase("an operator starts")
	o.operator = startOperator(t, o.Stack, "operator-0")
	o.expectEditsInForce(t, 0, http.StatusTooManyRequests)
	o.through(t, someSeconds)
	watched.neverLeft(t, o.Stack, outagesEdit...)
}

func (o *outages) withoutAPIServer(t *testing.T) {
	t.Helper()
	o.phase("the API server is away")
	must(t, o.KillAPIServer(t.Context()))
	o.through(t, someSeconds)
	o.phase("the API server is back")
	must(t, o.StartAPIServer(t.Context()))
	o.expectEditsInForce(t, 1000, http.StatusOK)
	o.through(t, someSeconds)
	expectRunning(t, o.operator)
}

func (o *outages) withoutEtcd(t *testing.T) {
	t.Helper()
	o.phase("etcd is paused")
	must(t, o.PauseEtcd())
	o.through(t, tenSeconds)
	o.phase("etcd goes on")
	must(t, o.ResumeEtcd())
	o.expectEditsInForce(t, 0, http.StatusTooManyRequests)
	o.through(t, someSeconds)
	expectRunning(t, o.operator)
}

// withoutAny has an operator start that finds no API server: it ends and says why, so that a kubelet starts it again.
func (o *outages) withoutAny(t *testing.T) {
	t.Helper()
	stop(t, o.operator)
	must(t, o.KillAPIServer(t.Context()))
	o.phase("an operator finds no API server")
	if _, err := o.StartOperator(t.Context(), "operator-0"); err == nil {
		t.Error("an operator runs that has found no API server; want it to end, so that it is started again")
	}
	expectLog(t, o.Stack, "operator-0", "Error: connecting to the cluster")
	o.through(t, someSeconds)
	o.restartService(t)
	o.through(t, someSeconds)
	o.phase("the API server and an operator come")
	must(t, o.StartAPIServer(t.Context()))
	o.operator = startOperator(t, o.Stack, "operator-0")
	o.expectEditsInForce(t, 1000, http.StatusOK)
	o.through(t, someSeconds)
	expectRunning(t, o.operator)
}

// restartService has the service go by what it has kept. Until it answers, requests fail.
func (o *outages) restartService(t *testing.T) {
	t.Helper()
	o.failing("the rate-limit service is stopped and started")
	stop(t, o.service)
	o.service = startService(t, o.Stack, "ratelimit-0")
	awaitStatus(t, o.port, unlimitedKey, http.StatusOK)
	o.phase("the service has not heard an operator in its life")
	answers(t, o.port, "key-spent", http.StatusTooManyRequests)
}

// expectEditsInForce edits a tier, which the service must obey, and a gateway, whose Envoy must acknowledge it, or its status would
// not say that it is in force.
func (o *outages) expectEditsInForce(t *testing.T, requests, want int) {
	t.Helper()
	apply(t, o.Stack, gateway("default", "edited", o.other, editedRoute(requests)))
	expectObeyed(t, o.Stack, o.port, requests, want)
}

// editedRoute is one more route of a gateway.
func editedRoute(n int) string {
	return fmt.Sprintf("- {name: edited, type: Backend, backendName: demo, protocol: OpaqueBody, resource: edited, matches: [{path: {type: Exact, value: /edited/%d}}]}", n)
}

// edited is a tier that tests change, with a number of requests a minute.
func edited(requests int) string {
	return plan("edited", perMinute(requests))
}

// expectObeyed changes the tier named edited, and waits until that is in force at a gateway for key-edited and told in its status.
func expectObeyed(t *testing.T, s *stack.Stack, port, requests, want int) {
	t.Helper()
	apply(t, s, edited(requests))
	awaitStatus(t, port, "key-edited", want)
	awaitAllReady(t, s)
}

func expectRunning(t *testing.T, p *stack.Process) {
	t.Helper()
	select {
	case <-p.Ended():
		t.Errorf("%s has ended", p.Name)
	default:
	}
}

func expectLog(t *testing.T, s *stack.Stack, process, want string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.Dir, process+".log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(content), want) {
		t.Errorf("%s says %s\nand nothing of %q", process, content, want)
	}
}

func kill(t *testing.T, p *stack.Process) {
	t.Helper()
	must(t, p.Kill())
}

func stop(t *testing.T, p *stack.Process) {
	t.Helper()
	must(t, p.Stop())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
