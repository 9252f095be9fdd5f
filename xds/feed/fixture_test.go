package feed_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/grpcserver"
	"github.com/tierkeeper/tierkeeper/internal/port"
	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/feed"
)

// enough is for what happens on loopback, however busy the machine.
const enough = 60 * time.Second

// A tb is a test, or one run of a property.
type tb interface {
	rapid.TB
	Context() context.Context
	Cleanup(f func())
}

// A bell rings whenever something may have changed that a test waits for.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

func (b bell) wait(t rapid.TB, what string, until func() bool) {
	t.Helper()
	late := time.After(enough)
	for !until() {
		select {
		case <-b:
		case <-late:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// An operator is a Server behind real gRPC, and what it said and heard.
type operator struct {
	*feed.Server
	bell
	address string
	stop    func()

	mu        sync.Mutex
	said      []*discoveryv3.DeltaDiscoveryResponse
	events    []string // "sent NONCE" and "acknowledged NONCE"
	greetings int      // messages in which clients say what they have
}

func start(t *testing.T, b bell) *operator {
	t.Helper()
	return startAt(t, b, somewhere(t))
}

// somewhere is an address that stays the operator's when it is stopped and started again.
func somewhere(t tb) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port.Reserve(t)))
}

func startAt(t tb, b bell, address string) *operator {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, b, l)
}

func serve(t tb, b bell, l net.Listener, options ...grpc.ServerOption) *operator {
	t.Helper()
	o := &operator{bell: b, address: l.Addr().String()}
	o.Server = feed.NewServer(func() {
		o.Clients() // as who is told of a change would
		b.ring()
	})
	options = append(grpcserver.Options(), options...) // or a client that is still there after a minute is sent away for its pings
	g := grpc.NewServer(append(options, grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		return next(srv, &recorder{s, o})
	}))...)
	o.Register(t.Context(), g)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	o.stop = sync.OnceFunc(func() {
		g.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // It may be stopped before it serves.
			t.Error(err)
		}
	})
	t.Cleanup(o.stop)
	return o
}

type recorder struct {
	grpc.ServerStream
	o *operator
}

// SendMsg implements grpc.ServerStream.
func (r *recorder) SendMsg(m any) error {
	sent := m.(*discoveryv3.DeltaDiscoveryResponse)
	r.o.mu.Lock()
	r.o.said = append(r.o.said, sent)
	r.o.events = append(r.o.events, "sent "+sent.GetNonce())
	r.o.mu.Unlock()
	return r.ServerStream.SendMsg(m)
}

// RecvMsg implements grpc.ServerStream.
func (r *recorder) RecvMsg(m any) error {
	err := r.ServerStream.RecvMsg(m)
	if err == nil {
		heard := m.(*discoveryv3.DeltaDiscoveryRequest)
		r.o.mu.Lock()
		defer r.o.mu.Unlock()
		if nonce := heard.GetResponseNonce(); nonce != "" {
			r.o.events = append(r.o.events, "acknowledged "+nonce)
		} else {
			r.o.greetings++
		}
	}
	return err
}

// told is how many resources were sent and how many names removed, and forgets them.
func (o *operator) told() (set, gone []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.said {
		for _, res := range r.GetResources() {
			set = append(set, res.GetName())
		}
		gone = append(gone, r.GetRemovedResources()...)
	}
	o.said = nil
	slices.Sort(set)
	slices.Sort(gone)
	return set, gone
}

// waitFor waits until the node has the mark.
func (o *operator) waitFor(t rapid.TB, node string, mark uint64) {
	t.Helper()
	o.wait(t, fmt.Sprintf("%s has mark %d", node, mark), func() bool {
		return slices.ContainsFunc(o.Clients(), func(c feed.Client) bool { return c.Node == node && c.Mark == mark })
	})
}

// waitGone waits until the node has no stream.
func (o *operator) waitGone(t rapid.TB, node string) {
	t.Helper()
	o.wait(t, node+" is gone", func() bool {
		return !slices.ContainsFunc(o.Clients(), func(c feed.Client) bool { return c.Node == node })
	})
}

// A follower is a client, and what it obeyed.
type follower struct {
	bell
	stop func()

	mu       sync.Mutex
	tables   []*policy.Table
	statuses []feed.Status
}

// follow runs a client until it is stopped, or the test ends.
func follow(t tb, b bell, c feed.ClientConfig) *follower {
	t.Helper()
	f := &follower{bell: b}
	c.Tell = func(s feed.Status) {
		f.mu.Lock()
		f.statuses = append(f.statuses, s)
		f.mu.Unlock()
		b.ring()
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- feed.Follow(ctx, c, func(table *policy.Table) {
			f.mu.Lock()
			f.tables = append(f.tables, table)
			f.mu.Unlock()
			b.ring()
		})
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

// table is the last one that was obeyed; nil: none was.
func (f *follower) table() *policy.Table {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.tables) == 0 {
		return nil
	}
	return f.tables[len(f.tables)-1]
}

func (f *follower) status() feed.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.statuses) == 0 {
		return feed.Status{Down: noon}
	}
	return f.statuses[len(f.statuses)-1]
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// config is that of a client of the operator.
func (o *operator) config(node, file string) feed.ClientConfig {
	return feed.ClientConfig{Address: o.address, Node: node, CacheFile: file, Clock: func() time.Time { return noon }}
}

// A logbook keeps the lines of a log, and rings the bell, if any, for each.
type logbook struct {
	bell

	mu    sync.Mutex
	lines strings.Builder
}

// Write implements io.Writer.
func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring()
	return l.lines.Write(b)
}

func (l *logbook) log() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logbook) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.lines.String(), text)
}

// served is what a Table says, without what only Envoys have to know.
func served(t rapid.TB, table *policy.Table) map[string]any {
	t.Helper()
	content, err := json.Marshal(table)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(content, &all); err != nil {
		t.Fatal(err)
	}
	for _, g := range all["gateways"].([]any) {
		for _, field := range []string{"Listeners", "Backends", "Routes", "TrustedProxyHops", "MaxBodyBytes", "AllowUncounted"} {
			delete(g.(map[string]any), field)
		}
	}
	return all
}

// examples compiles the golden cases of policy, of which there is one for each thing that a Table can say.
var examples = sync.OnceValue(func() map[string]*policy.Table {
	const root = "../../policy/testdata"
	entries, err := os.ReadDir(root)
	if err != nil {
		panic(err)
	}
	all := map[string]*policy.Table{}
	for _, e := range entries {
		in := new(manifest.Loader).Load(filepath.Join(root, e.Name(), "in.yaml")).Input
		before, _ := policy.Compile(new(manifest.Loader).Load(filepath.Join(root, e.Name(), "last.yaml")).Input)
		in.LastAccepted = before.Accepted()
		all[e.Name()], _ = policy.Compile(in)
	}
	return all
})

func exampleNames() []string { return slices.Sorted(maps.Keys(examples())) }

// customers are n quotas on two tiers, of which the first has n/10 with limits of their own.
func customers(n int) policy.Input {
	var in policy.Input
	for i := range 2 {
		tier := v1alpha1.RateLimitTier{}
		tier.Name, tier.Spec.Limits = fmt.Sprint("tier-", i), limit(100)
		in.Tiers = append(in.Tiers, &tier)
	}
	for i := range n {
		q := v1alpha1.ApiKeyQuota{}
		q.Namespace, q.Name = fmt.Sprint("team-", i%500), fmt.Sprint("key-", i)
		q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", Digest: policy.HashKey(fmt.Append(nil, i)).String()}}
		q.Spec.TierRef.Name = fmt.Sprint("tier-", i%2)
		if i%10 == 0 {
			q.Spec.Limits = limit(10)
		}
		in.Quotas = append(in.Quotas, &q)
	}
	return in
}

func limit(most int64) *v1alpha1.Limits {
	return &v1alpha1.Limits{Rates: []v1alpha1.Rate{{Metric: v1alpha1.MetricRequests, Per: v1alpha1.PerMinute, Max: new(most)}}}
}

func compile(in policy.Input) *policy.Table {
	table, _ := policy.Compile(in)
	return table
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}
