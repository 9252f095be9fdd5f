package kube_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

const (
	loadEvery   = 20 * time.Millisecond // a request, of one key after the other
	loadPatient = 20 * time.Second      // with one request, on a busy machine
	limitedMax  = 5                     // requests of the limited key a second: far less than it sends

	// A machine that stands still for longer than standstill, for this process and so for others, may make Envoy wait in vain for the
	// rate-limit service, and go without it until a health check: at most recovery after it goes on.
	standstill = 250 * time.Millisecond
	recovery   = 3 * time.Second
)

// The keys of a load.
const (
	unlimitedKey = "load-unlimited"
	limitedKey   = "load-limited"
)

// loadObjects are a gateway in namespace default at a port, and the keys of a load.
func loadObjects(port int, more ...string) string {
	return strings.Join(slices.Concat([]string{
		gateway("default", "main", port),
		plan("unlimited", "{metric: Requests, per: Minute, max: 1000000}"), holder("unlimited", unlimitedKey),
		plan("limited", fmt.Sprintf("{metric: Requests, per: Second, max: %d}", limitedMax)), holder("limited", limitedKey),
	}, more), "---\n")
}

// plan is a RateLimitTier with rates.
func plan(name, rates string) string {
	return fmt.Sprintf("apiVersion: tierkeeper.io/v1alpha1\nkind: RateLimitTier\nmetadata: {name: %s}\nspec: {priority: Normal, limits: {rates: [%s]}}\n", name, rates)
}

// holder is an ApiKeyQuota in namespace default of the tier of its name, and the Secret with its key.
func holder(name, key string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: %[1]s, namespace: default, labels: {tierkeeper.io/secret: "true"}}
stringData: {token: %[2]s}
---
apiVersion: tierkeeper.io/v1alpha1
kind: ApiKeyQuota
metadata: {name: %[1]s, namespace: default}
spec: {tierRef: {name: %[1]s}, keys: [{name: primary, secretKeyRef: {name: %[1]s, key: token}}]}
`, name, key)
}

// A load sends requests to a gateway, steadily, and counts the answers by the phase of the test in which they were sent.
type load struct {
	gateway int // its port
	client  *http.Client
	cancel  context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	phases  []*phase
	stills  []span // in which the machine stood still
	waiting sync.WaitGroup
}

// A span is a time from one moment to another.
type span struct{ from, to time.Time }

// A phase is what was answered to the requests of one part of a test.
type phase struct {
	name         string
	mayFail      bool // its requests may be answered 503
	began, ended time.Time
	answers      int
	counts       map[string]map[int]int // by key and status
	unavailable  []span                 // requests that were answered 503
	strange      string                 // the last answer that is neither 200 nor 429
}

// startLoad begins a load in a phase. It ends with the test at the latest.
func startLoad(t *testing.T, port int, name string) *load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &load{gateway: port, client: &http.Client{Timeout: loadPatient, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}, cancel: stop, stopped: make(chan struct{})}
	l.phase(name)
	go l.run(ctx)
	t.Cleanup(func() { stop(); <-l.stopped })
	return l
}

func (l *load) run(ctx context.Context) {
	defer close(l.stopped)
	ticker := time.NewTicker(loadEvery)
	defer ticker.Stop()
	keys, last := []string{unlimitedKey, limitedKey}, time.Now()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			l.waiting.Wait()
			return
		case <-ticker.C:
			last = l.attend(last)
			l.waiting.Go(func() { l.send(context.WithoutCancel(ctx), keys[n%len(keys)]) })
		}
	}
}

// attend notes whether the machine has stood still since the last request, and returns the time.
func (l *load) attend(last time.Time) (now time.Time) {
	if now = time.Now(); now.Sub(last) > standstill {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stills = append(l.stills, span{last, now})
	}
	return now
}

// excused reports whether the machine was at fault for a request that was answered 503.
func (l *load) excused(r span) bool {
	return slices.ContainsFunc(l.stills, func(s span) bool { return r.to.After(s.from) && r.from.Before(s.to.Add(recovery)) })
}

func (l *load) send(ctx context.Context, key string) {
	l.mu.Lock()
	p := l.phases[len(l.phases)-1]
	l.mu.Unlock()
	sent := time.Now()
	status, body, err := chatBy(ctx, l.client, l.gateway, key)
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.counts[key] == nil {
		p.counts[key] = map[int]int{}
	}
	p.counts[key][status]++
	p.answers++
	p.ended = time.Now()
	if status == http.StatusServiceUnavailable {
		p.unavailable = append(p.unavailable, span{sent, p.ended})
	}
	if status != http.StatusOK && status != http.StatusTooManyRequests {
		p.strange = fmt.Sprintf("%s: %d %s %v", p.ended.Format(time.StampMilli), status, body, err)
	}
}

// phase begins a phase in which everything is served.
func (l *load) phase(name string) { l.begin(name, false) }

// failing begins a phase in which requests may be answered 503.
func (l *load) failing(name string) { l.begin(name, true) }

func (l *load) begin(name string, mayFail bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phases = append(l.phases, &phase{name: name, mayFail: mayFail, began: time.Now(), counts: map[string]map[int]int{}})
}

// through waits until the phase has seen some answers.
func (l *load) through(t *testing.T, answers int) {
	t.Helper()
	l.mu.Lock()
	p := l.phases[len(l.phases)-1]
	l.mu.Unlock()
	await(t, fmt.Sprintf("%d answers while %s", answers, p.name), func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if p.answers < answers {
			return fmt.Errorf("there are %d", p.answers)
		}
		return nil
	})
}

// end stops the load, tells what was answered, and fails the test where that was not as promised: whoever is unlimited is always
// served, and whoever is limited is served as much as the limit allows and refused the rest.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.cancel()
	<-l.stopped
	for _, p := range l.phases {
		t.Logf("while %s: %s", p.name, p)
		if !p.mayFail && len(p.unavailable) > 0 && !slices.ContainsFunc(p.unavailable, func(r span) bool { return !l.excused(r) }) {
			t.Logf("the machine stood still while %s, and is to blame for the 503", p.name)
			p.mayFail = true
		}
		p.check(t)
	}
}

func (p *phase) check(t *testing.T) {
	t.Helper()
	for key, byStatus := range p.counts {
		for status := range byStatus {
			fine := status == http.StatusOK || status == http.StatusTooManyRequests && key == limitedKey || status == http.StatusServiceUnavailable && p.mayFail
			if !fine {
				t.Errorf("while %s a request of %s was answered %d; the last strange answer: %s", p.name, key, status, p.strange)
			}
		}
	}
	if !p.mayFail && (p.counts[unlimitedKey][http.StatusOK] == 0 || p.counts[limitedKey][http.StatusOK] == 0 || p.counts[limitedKey][http.StatusTooManyRequests] == 0) {
		t.Errorf("while %s not every kind of answer was seen: %s", p.name, p)
	}
	// The clock of the limit is that of this machine, and the first and the last second are not whole ones.
	seconds := int(p.ended.Sub(p.began)/time.Second) + 2
	if served := p.counts[limitedKey][http.StatusOK]; served > seconds*limitedMax {
		t.Errorf("while %s the limited key was served %d times within %d seconds of the clock, want at most %d", p.name, served, seconds, seconds*limitedMax)
	}
}

func (p *phase) String() string {
	var words []string
	for _, key := range slices.Sorted(maps.Keys(p.counts)) {
		for _, status := range slices.Sorted(maps.Keys(p.counts[key])) {
			words = append(words, fmt.Sprintf("%s %d × %d", key, p.counts[key][status], status))
		}
	}
	return fmt.Sprintf("%d answers in %s: %s", p.answers, p.ended.Sub(p.began).Round(time.Millisecond), strings.Join(words, ", "))
}

// startMain has everything in force that a load needs: a gateway, its Envoy, and two keys. It returns the gateway's port.
func startMain(t *testing.T, s *stack.Stack, service *stack.Process, more ...string) (port int, envoy *stack.Process) {
	t.Helper()
	port = freePort(t)
	apply(t, s, loadObjects(port, more...))
	envoy = startEnvoy(t, s, "default/main", "envoy-0", service)
	awaitAllReady(t, s)
	return port, envoy
}
