package replicas_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
	"github.com/tierkeeper/tierkeeper/internal/child"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/test/program"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

const (
	mostOutput = 10_000 // tokens, that a request reserves and hardly uses
	// noticed is by when Envoy asks a killed replica no more, however busy the machine, and mostFailed how many requests may fail by then:
	// those of a fifth of a second.
	noticed    = 2 * time.Second
	mostFailed = 60
)

// unhurried lets Envoy wait for answers: a machine that is busy with others for two seconds is not taken for a failure.
const unhurried = `apiVersion: tierkeeper.io/v1alpha1
kind: ModelLimit
metadata: {name: held}
spec: {models: [held], shared: {rates: [{metric: Requests, per: Day, max: 1000000}]}, capacity: {concurrentRequests: 1000, queue: {maxLength: 10, maxWaitSeconds: 10}}}`

// A cluster is replicas of the service that an Envoy finds as it does in Kubernetes: by a name that has the addresses of those that
// are ready. All have the same port.
type cluster struct {
	*installation

	names *names
	base  []string // flags of all replicas
	port  string
	next  netip.Addr // of a replica that is still to come
	admin *http.Client
	url   string // of the gateway

	stopEnvoy func() // so that no replica that stops waits for it
}

// A pod is a replica with an address of its own.
type pod struct {
	*replica

	addr netip.Addr
}

// startCluster starts replicas and an Envoy that asks them.
func startCluster(t *testing.T, n int) (*cluster, []*pod) {
	t.Helper()
	binary := envoyBinary(t)
	x := &cluster{
		installation: prepare(t, joined(troubled, unhurried)), names: serveNames(t),
		base: []string{on(redistest.Start(t).Addr), patient, "--drain=5s"},
		port: reservePort(t), next: netip.MustParseAddr("127.0.0.2"),
	}
	var pods []*pod
	for range n {
		pods = append(pods, x.deploy(t))
	}
	x.startEnvoy(t, binary)
	for _, p := range pods {
		x.awaitAsked(t, p)
	}
	eventually(t, soon, "the gateway serves", func() bool { return x.exchange(t.Context(), "nobody").status == http.StatusUnauthorized })
	return x, pods
}

// envoyBinary is the Envoy to run. Without one the test is skipped, or fails where nothing may be skipped.
func envoyBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ENVOY")
	if path != "" && runtime.GOOS == "linux" {
		return path
	}
	if os.Getenv("REQUIRE_ENVOY") == "1" {
		t.Fatal("ENVOY names no Envoy to test with, or this is not Linux: run make test-replicas on Linux.")
	}
	t.Skip("This test needs Linux and a real Envoy: run it with make test-replicas.")
	return ""
}

// reservePort holds a port at one address of loopback: at the others it is free, and nobody else is given it.
func reservePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // It does not wait.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // It is one of TCP.
}

// deploy starts a replica at an address that none had before, and enters it into DNS.
func (x *cluster) deploy(t *testing.T) *pod {
	t.Helper()
	addr := x.next
	x.next = addr.Next()
	p := x.startAt(t, addr)
	x.names.enter(addr)
	return p
}

func (x *cluster) startAt(t *testing.T, addr netip.Addr) *pod {
	t.Helper()
	x.flags = append(slices.Clone(x.base), "--address="+net.JoinHostPort(addr.String(), x.port))
	return &pod{replica: x.start(t), addr: addr}
}

// terminate does to a replica what Kubernetes does at the same time: it leaves DNS, and is told to stop.
func (x *cluster) terminate(p *pod) {
	x.names.leave(p.addr)
	x.lose(p)
	go func() { _ = p.Stop() }() // It takes its time; the test asks for the result.
}

// kill ends a replica as a crash does.
func (x *cluster) kill(p *pod) {
	x.lose(p)
	_ = p.Kill() // One that is killed ends with an error.
}

func (x *cluster) lose(p *pod) {
	x.replicas = slices.DeleteFunc(x.replicas, func(r *replica) bool { return r == p.replica })
}

// startEnvoy runs what tells an Envoy its configuration, a fake provider, and the Envoy.
func (x *cluster) startEnvoy(t *testing.T, envoy string) {
	t.Helper()
	host := x.next.String()
	x.next = x.next.Next()
	x.url = "http://" + net.JoinHostPort(host, x.port)
	control := program.Start(t, exec.Command(binary, "standalone", "--manifests", x.manifests, "--data-dir", t.TempDir(), "--envoy", "none", "--demo-upstream",
		"--service", net.JoinHostPort("127.0.0.2", x.port), "--address", host, "--port", x.port))
	dir := t.TempDir()
	content, err := protojson.Marshal(x.bootstrap(t, control.Says(t, `envoy -c (\S+) `)))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "envoy.json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	var out child.Output
	cmd := exec.Command(envoy, "-c", file, "--disable-hot-restart", "-l", "warning", "--concurrency", "2") //nolint:noctx // It is ended below.
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	x.stopEnvoy = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		x.stopEnvoy()
		if t.Failed() {
			t.Logf("Envoy said:\n%s", &out)
		}
	})
	x.admin = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "admin.sock"))
	}}}
	t.Cleanup(x.admin.CloseIdleConnections)
}

// bootstrap is what the program writes for an Envoy that knows the service by its name, and asks our DNS for it.
func (x *cluster) bootstrap(t *testing.T, onOneMachine string) *bootstrapv3.Bootstrap {
	t.Helper()
	content, err := os.ReadFile(onOneMachine)
	if err != nil {
		t.Fatal(err)
	}
	var written bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(content, &written); err != nil {
		t.Fatal(err)
	}
	xds := written.GetStaticResources().GetClusters()[0].GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress()
	port, err := strconv.ParseUint(x.port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	b := envoy.Bootstrap(policy.Name{Namespace: tenant, Name: "edge"}, "envoy-0", envoy.Servers{
		XDS: policy.Endpoint{Address: xds.GetAddress(), Port: xds.GetPortValue()}, Service: policy.Endpoint{Address: serviceName, Port: uint32(port)},
	})
	resolver, err := anypb.New(&caresv3.CaresDnsResolverConfig{
		Resolvers: []*corev3.Address{{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: x.names.at.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(x.names.at.Port())},
		}}}},
		DnsResolverOptions: &corev3.DnsResolverOptions{NoDefaultSearchDomain: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.TypedDnsResolverConfig = &corev3.TypedExtensionConfig{Name: "envoy.network.dns_resolver.cares", TypedConfig: resolver}
	return b
}

// awaitAsked waits until Envoy takes a replica for one that can be asked.
func (x *cluster) awaitAsked(t *testing.T, p *pod) {
	t.Helper()
	state := fmt.Sprintf("%s::%s::health_flags::healthy\n", envoy.ServiceCluster, net.JoinHostPort(p.addr.String(), x.port))
	eventually(t, soon, "Envoy asks the replica at "+p.addr.String(), func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://envoy/clusters", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := x.admin.Do(req)
		if err != nil {
			return false // It has just been started.
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		return err == nil && bytes.Contains(body, []byte(state))
	})
}

// An exchange is a request to the gateway and what came of it.
type exchange struct {
	began, ended time.Time
	status       int   // 0: no answer
	tokens       int64 // that it cost
	err          error // also of an answer that is not 200
}

func (x *cluster) exchange(ctx context.Context, holder string) (e exchange) {
	e.began = time.Now()
	e.status, e.tokens, e.err = x.chat(ctx, holder)
	e.ended = time.Now()
	return e
}

func (x *cluster) chat(ctx context.Context, holder string) (status int, tokens int64, err error) {
	resp, err := x.ask(ctx, holder, false, "x-demo-delay", lasts)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, 0, fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	var answer struct {
		Usage struct {
			Total int64 `json:"total_tokens"`
		} `json:"usage"`
	}
	err = json.Unmarshal(body, &answer)
	return resp.StatusCode, answer.Usage.Total, err
}

// ask sends a request, in whose answer the provider waits.
func (x *cluster) ask(ctx context.Context, holder string, stream bool, wait string, long time.Duration) (*http.Response, error) {
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"Hello"}],"max_tokens":%d,"stream":%t}`, general, mostOutput, stream)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, x.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+keyOf(holder))
	req.Header.Set(wait, long.String())
	return client.Do(req)
}

// open begins a stream that goes on until it is cut.
func (x *cluster) open(t *testing.T, holder string) (cut context.CancelFunc) {
	t.Helper()
	ctx, cut := context.WithCancel(t.Context())
	resp, err := x.ask(ctx, holder, true, "x-demo-token-delay", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("a stream got %d, want 200", resp.StatusCode)
	}
	return cut
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}

// Traffic is requests to the gateway at a steady rate, however long the answers take.
type traffic struct {
	quit chan struct{}
	all  sync.WaitGroup

	mu   sync.Mutex
	done []exchange
}

func (x *cluster) startTraffic(t *testing.T) *traffic {
	t.Helper()
	f := &traffic{quit: make(chan struct{})}
	f.all.Go(func() {
		for next := time.Now(); ; {
			next = next.Add(time.Second / perSecond)
			select {
			case <-f.quit:
				return
			case <-time.After(time.Until(next)):
				f.all.Go(func() {
					e := x.exchange(t.Context(), wide)
					f.mu.Lock()
					defer f.mu.Unlock()
					f.done = append(f.done, e)
				})
			}
		}
	})
	return f
}

// stop returns all requests, once each is answered.
func (f *traffic) stop() []exchange {
	close(f.quit)
	f.all.Wait()
	return f.done
}

// counts are how many requests there were, and what is counted of them.
type counts struct {
	Passed, Failed, Counted int
	Cost, Charged           int64 // tokens
	Unsettled               int   // requests that are charged with what they reserved
}

func (x *cluster) count(t *testing.T, all []exchange) (c counts) {
	t.Helper()
	for _, e := range all {
		if e.err != nil {
			c.Failed++
			continue
		}
		c.Passed++
		c.Cost += e.tokens
	}
	used := x.used(t, wide)
	c.Counted, c.Charged = int(used["Key/Requests/Day"]), used["Key/Tokens/Day"]
	c.Unsettled = int((c.Charged - c.Cost + mostOutput/2) / mostOutput)
	return c
}

// settled waits until Envoy has told the end of all requests: it does so when it tells the client.
func (x *cluster) settled(t *testing.T, holder string, held int64) {
	t.Helper()
	eventually(t, soon, "all that have ended are settled", func() bool { return x.used(t, holder)["Key/ConcurrentRequests"] == held })
}

// spread describes how long answers took, beside what the provider took.
func spread(all []exchange) string {
	calls := make([]call, len(all))
	for i, e := range all {
		calls[i].took = e.ended.Sub(e.began) - lasts
	}
	return latencies(calls)
}

// TestARolloutFailsNoRequest replaces every replica under load as a Deployment does that has one more meanwhile, and none less.
func TestARolloutFailsNoRequest(t *testing.T) {
	t.Parallel()
	x, old := startCluster(t, 3)
	clearOf(t, 24*time.Hour)
	cut := x.open(t, held)
	load := x.startTraffic(t)
	for _, p := range old {
		x.awaitAsked(t, x.deploy(t)) // A Deployment does not see it: it waits for its minReadySeconds.
		x.terminate(p)
	}
	for _, p := range old {
		if err := p.Result(t); err != nil {
			t.Errorf("a replica ended with %v, want exit code 0", err)
		}
	}
	all := load.stop()
	x.settled(t, wide, 0)
	x.settled(t, held, 1)
	cut()
	x.settled(t, held, 0)
	x.stopEnvoy()

	for _, e := range all {
		if e.err != nil {
			t.Errorf("a request failed: %v", e.err)
		}
	}
	got := x.count(t, all)
	t.Logf("all of %d replicas were replaced; beside the provider: %s; %+v", len(old), spread(all), got)
	want := counts{Passed: len(all), Counted: len(all), Cost: got.Cost, Charged: got.Cost}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what is counted (-want +got):\n%s", diff)
	}
}

// TestAKilledReplicaFailsOnlyWhatItWasAsked kills one of three replicas under load, which DNS goes on naming, and starts it again.
func TestAKilledReplicaFailsOnlyWhatItWasAsked(t *testing.T) {
	t.Parallel()
	x, pods := startCluster(t, 3)
	clearOf(t, 24*time.Hour)
	load := x.startTraffic(t)
	pass(t, time.Second)
	killed := time.Now()
	x.kill(pods[2])
	pass(t, noticed)
	back := x.startAt(t, pods[2].addr)
	x.awaitAsked(t, back)
	pass(t, time.Second)
	all := load.stop()
	pass(t, calm) // Envoy tells the end of a request to the service when it tells the client.
	x.stopEnvoy()

	var last time.Duration
	for _, e := range all {
		if e.err == nil {
			continue
		}
		last = max(last, e.ended.Sub(killed))
		if e.status != http.StatusServiceUnavailable || e.ended.Before(killed) || e.began.After(killed.Add(noticed)) {
			t.Errorf("a request %s after the kill failed: %v", e.began.Sub(killed), e.err)
		}
	}
	got := x.count(t, all)
	t.Logf("one of %d replicas was killed; the last request failed %s later; beside the provider: %s; %+v",
		len(pods), last.Round(time.Millisecond), spread(all), got)
	if got.Failed > mostFailed || got.Unsettled > mostFailed || got.Counted < got.Passed || got.Counted > got.Passed+got.Failed {
		t.Errorf("of requests at %d in a second, want at most %d that failed or are not settled, and all that passed counted: %+v", perSecond, mostFailed, got)
	}
}

// TestReplicasThatDNSForgetsAreAskedWhileTheyAreHealthy takes the addresses of all out of DNS.
func TestReplicasThatDNSForgetsAreAskedWhileTheyAreHealthy(t *testing.T) {
	t.Parallel()
	x, pods := startCluster(t, 2)
	for _, p := range pods {
		x.names.leave(p.addr)
	}
	x.names.awaitAsked(t, 2) // What the first was told has been taken by the time of the second.
	for range 20 {
		if e := x.exchange(t.Context(), wide); e.err != nil {
			t.Errorf("a request failed: %v", e.err)
		}
	}
	x.stopEnvoy()
}
