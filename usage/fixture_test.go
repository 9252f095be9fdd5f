package usage_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/usage"
)

// start is when a test begins: 20 seconds before a minute.
var start = time.Date(2026, time.January, 2, 12, 30, 40, 0, time.UTC)

// manifests are the objects of a test. Its quotas are in the namespace team, on the tier plan, and have their names for keys.
type manifests struct {
	Plan   v1alpha1.RateLimitTierSpec
	Quotas map[string]v1alpha1.ApiKeyQuotaSpec
	Users  map[string]v1alpha1.UserQuotaSpec
}

func compile(t testing.TB, text string) *policy.Table {
	t.Helper()
	var m manifests
	if err := yaml.UnmarshalStrict([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	in := policy.Input{Tiers: []*v1alpha1.RateLimitTier{{ObjectMeta: metav1.ObjectMeta{Name: "plan"}, Spec: m.Plan}}}
	for name, spec := range m.Quotas {
		spec.TierRef.Name = "plan"
		spec.Keys = []v1alpha1.APIKey{{Name: "main", Digest: policy.HashKey([]byte(name)).String()}}
		in.Quotas = append(in.Quotas, &v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name}, Spec: spec})
	}
	for name, spec := range m.Users {
		in.Users = append(in.Users, &v1alpha1.UserQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name}, Spec: spec})
	}
	g := v1alpha1.QuotaGateway{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "edge"}}
	g.Spec.Identity.Sources = []v1alpha1.KeySource{{Header: "x-api-key"}}
	in.Gateways = []*v1alpha1.QuotaGateway{&g}
	table, verdicts := policy.Compile(in)
	for _, v := range verdicts {
		if !v.Accepted() {
			t.Fatal(v)
		}
	}
	return table
}

// A cluster is objects, a service that limits by them, and the reporter of their use.
type cluster struct {
	*usage.Reporter

	t       *testing.T
	nanos   atomic.Int64
	store   *memory.Store
	limiter *ratelimit.Limiter

	// What the objects say, and how often they were written.
	mu      sync.Mutex
	held    chan struct{} // until it is closed, Last tells nothing of what it has read; nil: it tells at once
	says    map[string]usage.Status
	writes  []string
	fails   map[string]error
	reached []string
}

func newCluster(t *testing.T, text string, options ...usage.Option) *cluster {
	t.Helper()
	c := &cluster{t: t, store: memory.New(), says: map[string]usage.Status{}, fails: map[string]error{}}
	c.nanos.Store(start.UnixNano())
	c.limiter = c.replica(text)
	c.Reporter = usage.NewReporter(c.limiter, c, c, options...)
	c.restart(options...)
	return c
}

// replica is a service over the counters of the cluster.
func (c *cluster) replica(text string) *ratelimit.Limiter {
	c.t.Helper()
	l := ratelimit.New(c.store, []byte("secret"), ratelimit.WithClock(c.now))
	l.SetTable(compile(c.t, text))
	return l
}

// restart is another leader.
func (c *cluster) restart(options ...usage.Option) {
	c.t.Helper()
	c.Reporter = usage.NewReporter(c.limiter, c, c, options...)
	if err := c.Begin(c.t.Context(), c.now()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) now() time.Time { return time.Unix(0, c.nanos.Load()).UTC() }

// after passes some time, and then has the reporter look.
func (c *cluster) after(d time.Duration) {
	c.nanos.Add(int64(d))
	c.Pass(c.t.Context(), c.now())
}

// use has a key make requests, which must pass.
func (c *cluster) use(key string, requests int) { c.useAt(c.limiter, key, requests) }

func (c *cluster) useAt(l *ratelimit.Limiter, key string, requests int) {
	c.t.Helper()
	for range requests {
		reserve(c.t, l, key)
	}
}

func request(key string) *descriptor.Reserve {
	return &descriptor.Reserve{
		Credentials: []descriptor.Credential{descriptor.NewCredential("x-api-key", "", key)}, Client: "192.0.2.1",
		Gateway: "team/edge", Resource: "chat", Model: "m", Protocol: descriptor.ProtocolOpenAIChat, MaxOutput: 1000,
	}
}

// reserve makes a request, which must pass.
func reserve(t testing.TB, l *ratelimit.Limiter, key string) {
	t.Helper()
	if d, err := l.Reserve(t.Context(), request(key)); err != nil || d.Status != 0 {
		t.Fatalf("%s got status %d, error %v", key, d.Status, err)
	}
}

// Last implements usage.Writer.
func (c *cluster) Last(ctx context.Context, visit func(policy.Object, usage.Status)) error {
	c.mu.Lock()
	says, held := maps.Clone(c.says), c.held
	c.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for name, s := range says {
		kind, rest, _ := strings.Cut(name, " ")
		namespace, name, _ := strings.Cut(rest, "/")
		visit(policy.Object{Kind: kind, Name: policy.Name{Namespace: namespace, Name: name}}, s)
	}
	return c.fails["last"]
}

// hold has Last tell nothing before what it returns is called.
func (c *cluster) hold() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := make(chan struct{})
	c.held = held
	return func() { close(held) }
}

// Write implements usage.Writer.
func (c *cluster) Write(_ context.Context, o policy.Object, s usage.Status) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes = append(c.writes, o.String())
	if err := c.fails[o.String()]; err != nil {
		return err
	}
	c.says[o.String()] = s
	return nil
}

// Reached implements usage.Events.
func (c *cluster) Reached(r usage.Reached) {
	c.reached = append(c.reached, fmt.Sprintf("%s %d: %s", r.Object, r.Percent, r.Message))
}

var errRefused = errors.New("refused")

// tell is what an object says, in short: its limits, and the conditions that are True.
func (c *cluster) tell(object string) []string {
	s := c.says[object]
	if s.Usage == nil {
		return nil
	}
	lines := []string{}
	for _, l := range s.Usage.Limits {
		line := fmt.Sprintf("%s %d of %d", l.ID, *l.Used, *l.Max)
		if l.ResetTime != nil {
			line += l.ResetTime.UTC().Format(", until 15:04:05")
		}
		lines = append(lines, line)
	}
	for _, condition := range s.Conditions {
		if condition.Status == metav1.ConditionTrue {
			lines = append(lines, condition.Type+": "+condition.Message)
		}
	}
	return lines
}
