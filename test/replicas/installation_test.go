package replicas_test

import (
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/test/program"
)

// An installation is some replicas of the service on one Redis.
type installation struct {
	manifests, leaseKey string
	flags               []string // beside those of the harness
	replicas            []*replica
	next                atomic.Uint64 // replica to be asked
}

// A replica is one process of the service, as those who ask it see it.
type replica struct {
	*program.Process

	rls    rlsv3.RateLimitServiceClient
	log    alsv3.AccessLogServiceClient
	health healthv1.HealthClient
	admin  *admin.Client
	meters string // URL of its metrics
}

// patient is for tests that are not about outages: a machine that is busy with others is not taken for one.
const patient = "--redis-deadline=20s"

// install starts replicas on a Redis, and waits until each knows of all. They stop in order at the end of the test.
func install(t *testing.T, n int, manifests string, flags ...string) *installation {
	t.Helper()
	x := prepare(t, manifests, flags...)
	for range n {
		x.start(t)
	}
	x.awaitReplicas(t, n)
	return x
}

// prepare makes everything but the processes.
func prepare(t *testing.T, manifests string, flags ...string) *installation {
	t.Helper()
	return &installation{
		manifests: filepath.Dir(write(t, "all.yaml", manifests)), leaseKey: write(t, "lease", strings.Repeat("0123456789abcdef", 4)), flags: flags,
	}
}

func on(redis ...string) string { return "--redis=" + strings.Join(redis, ",") }

// launch runs one more process and returns at once.
func (x *installation) launch(t *testing.T) *program.Process {
	t.Helper()
	return program.Start(t, exec.Command(binary, append([]string{
		"ratelimit", "--manifests", x.manifests, "--lease-key-file", x.leaseKey, "--address", "127.0.0.1:0", "--data-dir", t.TempDir(),
		"--drain", "0s",
	}, x.flags...)...))
}

// start runs one more replica until it listens.
func (x *installation) start(t *testing.T) *replica {
	t.Helper()
	p := x.launch(t)
	t.Cleanup(func() {
		if !p.HasEnded() {
			p.EndsInOrder(t, syscall.SIGTERM)
		}
	})
	p.Says(t, `(Counts in Redis at .+, prefix tk)\.`)
	address := p.Says(t, `The rate-limit service listens on (\S+)\. `)
	client, err := admin.NewClient(p.Says(t, `Admin: (\S+) `), "")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r := &replica{
		Process: p, rls: rlsv3.NewRateLimitServiceClient(conn), log: alsv3.NewAccessLogServiceClient(conn), health: healthv1.NewHealthClient(conn),
		admin: client, meters: p.Says(t, `Metrics: (\S+)`),
	}
	if _, err := r.health.Check(t.Context(), &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	x.replicas = append(x.replicas, r)
	return r
}

func (x *installation) awaitReplicas(t *testing.T, n int) {
	t.Helper()
	eventually(t, soon, "each replica knows of all", func() bool {
		for _, r := range x.replicas {
			if r.meter(t, "tierkeeper_store_replicas") != float64(n) {
				return false
			}
		}
		return true
	})
}

// any is a replica, in turn.
func (x *installation) any() *replica {
	return x.replicas[x.next.Add(1)%uint64(len(x.replicas))]
}

// meter reads a metric that must be there.
func (r *replica) meter(t *testing.T, name string) float64 {
	t.Helper()
	n, found := r.find(t, name)
	if !found {
		t.Fatalf("there is no metric %s", name)
	}
	return n
}

// find reads a metric; false if there is none.
func (r *replica) find(t *testing.T, name string) (n float64, found bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.meters, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n, true
		}
	}
	return 0, false
}

// sum adds a metric of all replicas.
func (x *installation) sum(t *testing.T, name string) (sum int) {
	t.Helper()
	for _, r := range x.replicas {
		sum += int(r.meter(t, name))
	}
	return sum
}

// used is what the first replica tells of the limits of a key, by their IDs, such as Key/Requests/Day.
func (x *installation) used(t *testing.T, name string) map[string]int64 {
	t.Helper()
	usage, err := x.replicas[0].admin.KeyUsage(t.Context(), policy.Name{Namespace: tenant, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]int64{}
	for _, l := range usage.Usage[0].Limits {
		used[l.ID()] = l.Used
	}
	return used
}
