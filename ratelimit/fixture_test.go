package ratelimit_test

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// start is when a test begins: 12 seconds before a minute, 1752 before an hour and 41352 before a day ends.
var start = time.Date(2024, time.February, 14, 12, 30, 48, 0, time.UTC)

// secret signs the leases of the tests.
var secret = []byte("a secret of tests")

// gatewayName is the gateway of every request that does not say otherwise.
const gatewayName = "team/edge"

// manifests are the objects of a test, by name or namespace/name.
type manifests struct {
	Tiers      map[string]v1alpha1.RateLimitTierSpec `json:"tiers,omitempty"`
	Models     map[string]v1alpha1.ModelLimitSpec    `json:"models,omitempty"`
	Quotas     map[string]v1alpha1.ApiKeyQuotaSpec   `json:"quotas,omitempty"` // absent: team/alice on the tier plan
	Users      map[string]v1alpha1.UserQuotaSpec     `json:"users,omitempty"`
	Namespaces map[string]map[string]string          `json:"namespaces,omitempty"` // labels
	Gateway    *v1alpha1.QuotaGatewaySpec            `json:"gateway,omitempty"`    // of gatewayName; see defaultGateway
	Gateways   map[string]v1alpha1.QuotaGatewaySpec  `json:"gateways,omitempty"`   // others
	Labels     map[string]map[string]string          `json:"labels,omitempty"`     // of Models
}

// defaultGateway takes keys from three places and speaks both dialects.
const defaultGateway = `
identity: {sources: [{header: Authorization, prefix: "Bearer "}, {header: X-Api-Key}, {queryParameter: key}]}
headers:
  dialects:
  - {type: PerMetric, perMetric: {requestsReset: UnixSeconds, tokensReset: Duration}}
  - {type: PerResource}
`

// keyOfQuota is the API key of every quota that names none: sk- and its name without namespace.
func keyOfQuota(name string) string {
	_, name, _ = strings.Cut(name, "/")
	return "sk-" + name
}

// compile makes a table of manifests that follows another, which may be nil. Verdicts are of no matter here: a test of a
// rejected quota wants it rejected.
func compile(t testing.TB, text string, before *policy.Table) *policy.Table {
	t.Helper()
	m := decode[manifests](t, text)
	if m.Quotas == nil {
		m.Quotas = map[string]v1alpha1.ApiKeyQuotaSpec{"team/alice": {TierRef: v1alpha1.Ref{Name: "plan"}}}
	}
	if m.Gateway == nil {
		m.Gateway = &v1alpha1.QuotaGatewaySpec{}
	}
	usual := decode[v1alpha1.QuotaGatewaySpec](t, defaultGateway)
	if m.Gateways == nil {
		m.Gateways = map[string]v1alpha1.QuotaGatewaySpec{}
	}
	m.Gateways[gatewayName] = *m.Gateway
	for name, g := range m.Gateways {
		if g.Identity.Sources == nil {
			g.Identity.Sources = usual.Identity.Sources
		}
		if g.Headers == nil {
			g.Headers = usual.Headers
		}
		m.Gateways[name] = g
	}
	in := m.input()
	if before != nil {
		in.LastAccepted = before.Accepted()
	}
	table, _ := policy.Compile(in)
	return table
}

func (m *manifests) input() policy.Input {
	in := policy.Input{}
	for name, spec := range m.Gateways {
		in.Gateways = append(in.Gateways, &v1alpha1.QuotaGateway{ObjectMeta: meta(name), Spec: spec})
	}
	for name, spec := range m.Tiers {
		in.Tiers = append(in.Tiers, &v1alpha1.RateLimitTier{ObjectMeta: meta(name), Spec: spec})
	}
	for name, spec := range m.Models {
		model := v1alpha1.ModelLimit{ObjectMeta: meta(name), Spec: spec}
		model.Labels = m.Labels[name]
		in.Models = append(in.Models, &model)
	}
	for name, spec := range m.Quotas {
		if spec.Keys == nil {
			spec.Keys = []v1alpha1.APIKey{{Name: "main", Digest: policy.HashKey([]byte(keyOfQuota(name))).String()}}
		}
		in.Quotas = append(in.Quotas, &v1alpha1.ApiKeyQuota{ObjectMeta: meta(name), Spec: spec})
	}
	for name, spec := range m.Users {
		in.Users = append(in.Users, &v1alpha1.UserQuota{ObjectMeta: meta(name), Spec: spec})
	}
	for name, labels := range m.Namespaces {
		in.Namespaces = append(in.Namespaces, policy.Namespace{Name: name, Labels: labels})
	}
	return in
}

func meta(name string) metav1.ObjectMeta {
	if namespace, name, ok := strings.Cut(name, "/"); ok {
		return metav1.ObjectMeta{Namespace: namespace, Name: name}
	}
	return metav1.ObjectMeta{Name: name}
}

func decode[T any](t testing.TB, text string) (v T) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), &v); err != nil {
		t.Fatalf("decoding manifests: %v\n%s", err, text)
	}
	return v
}

// clock is a time that stands still until it is moved. A nil one is that of the bubble in which a test runs.
type clock struct{ nanos atomic.Int64 }

func (c *clock) now() time.Time {
	if c == nil {
		return time.Now() //nolint:forbidigo // The clock of the bubble.
	}
	return time.Unix(0, c.nanos.Load()).UTC()
}
func (c *clock) set(at time.Time)        { c.nanos.Store(at.UnixNano()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

// A service is a limiter with all that it stands on.
type service struct {
	*ratelimit.Limiter

	clock *clock
	store *memory.Store
	table *policy.Table
}

// serve starts a service at the time start by a table of the manifests.
func serve(t testing.TB, text string, options ...ratelimit.Option) *service {
	t.Helper()
	c := &clock{}
	c.set(start)
	return serveAt(t, c, text, options...)
}

// serveAt starts a service with the clock.
func serveAt(t testing.TB, c *clock, text string, options ...ratelimit.Option) *service {
	t.Helper()
	s := &service{clock: c, store: memory.New()}
	s.Limiter = ratelimit.New(s.store, secret, append([]ratelimit.Option{ratelimit.WithClock(s.clock.now), ratelimit.WithFailures(memory.NewFailures())}, options...)...)
	s.apply(t, text)
	return s
}

// apply makes the service answer by a table of other manifests.
func (s *service) apply(t testing.TB, text string) {
	t.Helper()
	s.table = compile(t, text, s.table)
	s.SetTable(s.table)
}

// ask reserves, which must not fail.
func (s *service) ask(t testing.TB, r *descriptor.Reserve) ratelimit.Decision {
	t.Helper()
	d, err := s.Reserve(t.Context(), r)
	if err != nil {
		t.Fatalf("reserving: %v", err)
	}
	return d
}

// pass reserves, and the request must be admitted.
func (s *service) pass(t testing.TB, r *descriptor.Reserve) ratelimit.Decision {
	t.Helper()
	d := s.ask(t, r)
	if d.Status != 0 {
		t.Fatalf("the request was refused with %d %s, want it to pass", d.Status, d.Body)
	}
	return d
}

// refuse reserves, and the request must be refused with the status.
func (s *service) refuse(t testing.TB, r *descriptor.Reserve, status int) ratelimit.Decision {
	t.Helper()
	d := s.ask(t, r)
	if d.Status != status {
		t.Fatalf("the request got status %d %s, want %d", d.Status, d.Body, status)
	}
	if d.Lease != "" {
		t.Errorf("a request that was refused has a lease")
	}
	return d
}

// end settles what was decided.
func (s *service) end(t testing.TB, d ratelimit.Decision, told descriptor.Settle) {
	t.Helper()
	told.Lease = d.Lease
	if err := s.Settle(t.Context(), &told); err != nil {
		t.Fatalf("settling: %v", err)
	}
}

// used reads what the counters of a request hold, by scope and pair as in "Key Tokens per Minute".
func (s *service) used(t testing.TB, r *descriptor.Reserve) map[string]int64 {
	t.Helper()
	credential, known := s.table.Lookup(policy.HashKey([]byte(keyIn(r))))
	if !known {
		t.Fatal("the key of the request is unknown")
	}
	limits := s.table.Resolve(nil, credential.Holder, r.Model, r.Resource).Limits
	counters := make([]counter.Limit, len(limits))
	for i, l := range limits {
		counters[i] = counter.Limit{Key: ratelimit.KeyOf(l), Window: ratelimit.WindowOf(l), Max: l.Max}
	}
	counts := make([]counter.Count, len(limits))
	if err := s.store.Peek(t.Context(), s.clock.now(), counters, counts); err != nil {
		t.Fatalf("peeking: %v", err)
	}
	out := map[string]int64{}
	for i, l := range limits {
		out[l.Scope.String()+" "+l.Pair.String()] = counts[i].Used
	}
	return out
}

func keyIn(r *descriptor.Reserve) string {
	return strings.TrimPrefix(r.Credentials[0].Reveal(), "Bearer ")
}

// chat is a request of a chat model that reserves no input.
func chat(key string) *descriptor.Reserve {
	return &descriptor.Reserve{
		Credentials: []descriptor.Credential{bearer("Bearer " + key)},
		Client:      "192.0.2.1", Gateway: gatewayName, Resource: "chat", Protocol: descriptor.ProtocolOpenAIChat,
		Model: "gpt-5", MaxOutput: 10,
	}
}

// with changes a request.
func with(r *descriptor.Reserve, change func(*descriptor.Reserve)) *descriptor.Reserve {
	change(r)
	return r
}

func bearer(value string) descriptor.Credential {
	return descriptor.NewCredential("authorization", "", value)
}

func apiKey(value string) descriptor.Credential {
	return descriptor.NewCredential("x-api-key", "", value)
}
func query(value string) descriptor.Credential { return descriptor.NewCredential("", "key", value) }

// headersOf are the headers of a decision by their names; no name may stand twice.
func headersOf(t testing.TB, d ratelimit.Decision) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, h := range d.Headers() {
		if _, twice := out[h.Name]; twice {
			t.Errorf("the header %s stands twice in %v", h.Name, d.Headers())
		}
		out[h.Name] = h.Value
	}
	return out
}

// only keeps the headers whose names begin with one of the prefixes.
func only(headers map[string]string, prefixes ...string) map[string]string {
	maps.DeleteFunc(headers, func(name, _ string) bool {
		return !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
	})
	return headers
}

// oneTier is manifests with a tier plan, which has these limits, and a key sk-alice on it.
func oneTier(limits string) string {
	return fmt.Sprintf("tiers: {plan: {limits: %s}}", limits)
}

// rates writes limits of all requests of a key, each as "Metric Per max", or "Metric Per max algorithm".
func rates(list ...string) string {
	return "{rates: [" + strings.Join(each(list, rate), ", ") + "]}"
}

func each(list []string, f func(string) string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = f(s)
	}
	return out
}

func rate(s string) string {
	f := append(strings.Fields(s), "FixedWindow")
	return fmt.Sprintf("{metric: %s, per: %s, max: %s, algorithm: %s}", f[0], f[1], f[2], f[3])
}

// keepLog makes a limiter tell everything to the handler.
func keepLog(h slog.Handler) ratelimit.Option { return ratelimit.WithLog(slog.New(h)) }
