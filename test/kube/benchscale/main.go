// Benchscale measures a whole installation with many ApiKeyQuotas: how long a change takes until Envoy obeys, what a compilation
// costs, how much memory each key takes, and how fast conditions are written. It prints figures and judges none.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

const (
	creators  = 32 // requests to the API server at once
	pageSize  = 5000
	patience  = 10 * time.Minute
	pollEvery = 2 * time.Millisecond
)

type bench struct {
	config  stack.Config
	n       int
	changes int
	writes  float64
	wait    bool

	s         *stack.Stack
	port      int
	quotas    []*v1alpha1.ApiKeyQuota // those that are changed
	operator  *stack.Process
	service   *stack.Process
	beginning time.Time
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var b bench
	b.config.AddFlags(flag.CommandLine)
	flag.IntVar(&b.n, "n", 10_000, "ApiKeyQuotas")
	flag.IntVar(&b.changes, "changes", 100, "changes that are timed")
	flag.Float64Var(&b.writes, "status-writes-per-second", 50, "what the operator may write")
	flag.BoolVar(&b.wait, "wait", true, "wait until all conditions stand")
	flag.Parse()
	dir, err := os.MkdirTemp("", "tierkeeper-scale-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b.config.Dir = dir
	if b.s, err = stack.Start(ctx, b.config); err != nil {
		return err
	}
	return errors.Join(b.run(ctx), b.s.Stop())
}

func (b *bench) say(format string, args ...any) { fmt.Printf(format+"\n", args...) } //nolint:forbidigo // It is for people.

func (b *bench) run(ctx context.Context) error {
	b.say("%d ApiKeyQuotas, %d cores, %s, %s", b.n, runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format(time.DateOnly))
	if err := b.prepare(ctx); err != nil {
		return err
	}
	empty, err := b.startAll(ctx)
	if err != nil {
		return err
	}
	if err := b.create(ctx); err != nil {
		return err
	}
	if err := b.awaitKey(ctx, b.n-1, http.StatusOK); err != nil {
		return err
	}
	b.say("created, compiled and in force: %s after the first was written", time.Since(b.beginning).Round(100*time.Millisecond))
	if err := b.timeChanges(ctx, "while conditions are being written"); err != nil {
		return err
	}
	if b.wait {
		if err := b.awaitConditions(ctx); err != nil {
			return err
		}
		if err := b.timeChanges(ctx, "when nothing else happens"); err != nil {
			return err
		}
	}
	if err := b.sayMemory(empty); err != nil {
		return err
	}
	return b.restart(ctx)
}

// prepare writes what all quotas share.
func (b *bench) prepare(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("finding a port: %w", err)
	}
	b.port = l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // It is TCP.
	_ = l.Close()
	for i := range 100 {
		if err := b.s.CreateNamespace(ctx, namespace(i), nil); err != nil {
			return err
		}
	}
	return b.s.Apply(ctx, fmt.Sprintf(`
apiVersion: tierkeeper.io/v1alpha1
kind: RateLimitTier
metadata: {name: free}
spec: {limits: {rates: [{metric: Requests, per: Minute, max: 1000000}, {metric: Tokens, per: Day, max: 100000000}], concurrency: {max: 100}}}
---
apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {name: main}
spec:
  listeners: [{name: http, port: %d, protocol: HTTP}]
  backends: [{name: demo, endpoints: [{address: 127.0.0.1, port: 9}]}]
  identity: {sources: [{header: Authorization, prefix: "Bearer "}]}
  allowedKeys: {namespaces: {from: All}}
  routes:
  - {name: chat, type: Backend, backendName: demo, protocol: OpenAIChatCompletions, resource: chat, matches: [{method: POST, path: {type: Exact, value: /v1/chat/completions}}]}
`, b.port))
}

func namespace(i int) string { return fmt.Sprintf("team-%d", i%100) }

func key(i int) string { return fmt.Sprintf("sk-%d", i) }

// startAll starts everything, and returns the memory of operator and service without quotas.
func (b *bench) startAll(ctx context.Context) (empty [2]int64, err error) {
	if b.operator, err = b.s.StartOperator(ctx, "operator-0", "--log-level", "debug", "--status-writes-per-second", fmt.Sprint(b.writes)); err != nil {
		return empty, err
	}
	if b.service, err = b.s.StartService(ctx, "ratelimit-0", "--drain", "0s"); err != nil {
		return empty, err
	}
	if _, err := b.s.StartEnvoy(ctx, "default/main", "envoy-0", b.service.Address); err != nil {
		return empty, err
	}
	if err := b.awaitKey(ctx, -1, http.StatusUnauthorized); err != nil {
		return empty, err
	}
	return b.memory()
}

func (b *bench) memory() (all [2]int64, err error) {
	for i, p := range []*stack.Process{b.operator, b.service} {
		if all[i], err = p.Memory(); err != nil {
			return all, err
		}
	}
	return all, nil
}

// create writes the quotas.
func (b *bench) create(ctx context.Context) error {
	b.beginning = time.Now()
	b.quotas = make([]*v1alpha1.ApiKeyQuota, b.n)
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range creators {
		group.Go(func() error {
			for i := int(next.Add(1) - 1); i < b.n; i = int(next.Add(1) - 1) {
				sum := sha256.Sum256([]byte(key(i)))
				q := &v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: namespace(i), Name: fmt.Sprintf("quota-%d", i)}}
				q.Spec.TierRef.Name, q.Spec.User = "free", fmt.Sprintf("user-%d", i/3)
				q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", Digest: "sha256:" + hex.EncodeToString(sum[:])}}
				if err := b.s.Client.Create(ctx, q); err != nil {
					return fmt.Errorf("creating %s: %w", q.Name, err)
				}
				b.quotas[i] = q
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	took := time.Since(b.beginning)
	b.say("the API server took them in %s (%.0f a second)", took.Round(100*time.Millisecond), float64(b.n)/took.Seconds())
	return nil
}

// awaitKey asks with a key until the answer is the status; key -1 is unknown.
func (b *bench) awaitKey(ctx context.Context, i, want int) error {
	deadline := time.Now().Add(patience)
	for {
		got, err := b.ask(ctx, key(i))
		if got == want {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("key %d is answered %d (%w), and not %d", i, got, err, want)
		}
		time.Sleep(pollEvery) //nolint:forbidigo // It is what is measured.
	}
}

func (b *bench) ask(ctx context.Context, key string) (int, error) {
	body := strings.NewReader(`{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}`)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/v1/chat/completions", b.port), body)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+key)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// timeChanges suspends quotas, and lets them go on, and times how long it takes from the write until Envoy obeys.
func (b *bench) timeChanges(ctx context.Context, when string) error {
	var times []time.Duration
	for c := range b.changes {
		i := c / 2 * (b.n / max(1, b.changes)) % b.n
		state, want := v1alpha1.DesiredStateSuspended, http.StatusUnauthorized
		if c%2 == 1 {
			state, want = v1alpha1.DesiredStateActive, http.StatusOK
		}
		patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"desiredState":%q}}`, state))
		began := time.Now()
		if err := b.s.Client.Patch(ctx, b.quotas[i].DeepCopy(), patch); err != nil {
			return fmt.Errorf("changing a quota: %w", err)
		}
		if err := b.awaitKey(ctx, i, want); err != nil {
			return err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	b.say("from the write of one change to its enforcement, %s: p50 %s, p99 %s, max %s (%d changes)", when,
		at(times, 50), at(times, 99), at(times, 100), len(times))
	return b.sayCompile()
}

func at(sorted []time.Duration, percent int) time.Duration {
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)].Round(time.Millisecond)
}

var compiled = regexp.MustCompile(`msg=compiled .*quotas=(\d+) took=(\S+)`)

// sayCompile tells what compilations of all quotas took, as the operator says.
func (b *bench) sayCompile() error {
	text, err := b.operator.Log()
	if err != nil {
		return err
	}
	var times []time.Duration
	for _, m := range compiled.FindAllSubmatch(text, -1) {
		if took, err := time.ParseDuration(string(m[2])); err == nil && string(m[1]) == fmt.Sprint(b.n) {
			times = append(times, took)
		}
	}
	if len(times) == 0 {
		return errors.New("the operator tells of no compilation of all quotas")
	}
	slices.Sort(times)
	b.say("gathering, compiling and publishing all of them: p50 %s, p99 %s, max %s (%d times)", at(times, 50), at(times, 99), at(times, 100), len(times))
	return nil
}

// awaitConditions waits until every quota is Ready, and tells how fast that was written.
func (b *bench) awaitConditions(ctx context.Context) error {
	began, before := time.Now(), -1
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	for {
		ready, err := b.ready(ctx)
		if err != nil {
			return err
		}
		if before < 0 {
			before = ready
		}
		if ready == b.n {
			b.say("all conditions stand %s after the first quota was written (%.0f writes a second; %.0f allowed)",
				time.Since(b.beginning).Round(time.Second), float64(ready-before)/max(time.Since(began).Seconds(), 1), b.writes)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (b *bench) ready(ctx context.Context) (ready int, err error) {
	var page v1alpha1.ApiKeyQuotaList
	for next := ""; ; next = page.Continue {
		page = v1alpha1.ApiKeyQuotaList{}
		if err := b.s.Client.List(ctx, &page, client.Limit(pageSize), client.Continue(next)); err != nil {
			return 0, fmt.Errorf("counting conditions: %w", err)
		}
		for i := range page.Items {
			if meta.IsStatusConditionTrue(page.Items[i].Status.Conditions, v1alpha1.ConditionReady) {
				ready++
			}
		}
		if page.Continue == "" {
			return ready, nil
		}
	}
}

func (b *bench) sayMemory(empty [2]int64) error {
	full, err := b.memory()
	if err != nil {
		return err
	}
	for i, name := range []string{"operator", "service"} {
		b.say("memory of the %s: %d MiB, of which %.1f KiB for each key", name, full[i]>>20, float64(full[i]-empty[i])/1024/float64(b.n))
	}
	return nil
}

// restart times how long it takes until both are back, and what they take then.
func (b *bench) restart(ctx context.Context) error {
	began := time.Now()
	if err := errors.Join(b.operator.Stop(), b.service.Stop()); err != nil {
		return err
	}
	if _, err := b.startOver(ctx); err != nil {
		return err
	}
	if err := b.awaitKey(ctx, b.n-1, http.StatusOK); err != nil {
		return err
	}
	b.say("restarted and in force again after %s, by what the service keeps", time.Since(began).Round(100*time.Millisecond))
	return nil
}

func (b *bench) startOver(ctx context.Context) (*stack.Process, error) {
	operator, err := b.s.StartOperator(ctx, "operator-0", "--log-level", "debug", "--status-writes-per-second", fmt.Sprint(b.writes))
	if err != nil {
		return nil, err
	}
	b.operator = operator
	b.service, err = b.s.StartService(ctx, "ratelimit-0", "--drain", "0s")
	return b.service, err
}
