// Package kube_test decides whether Tierkeeper keeps its promises in a cluster: a real API server takes our objects and refuses
// what is none of ours, and the operator, the rate-limit service and Envoy make of them what their status says.
package kube_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/internal/port"
	"github.com/tierkeeper/tierkeeper/mtls"
	"github.com/tierkeeper/tierkeeper/test/kube/stack"
	"github.com/tierkeeper/tierkeeper/test/program"
)

const (
	pollEvery = 50 * time.Millisecond
	soon      = time.Minute // a machine may be busy with other tests
)

var (
	// server is the API server of the tests that need nothing else, with our definitions; nil where there are no binaries of it.
	server *rest.Config
	// binary is the program under test.
	binary string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	assets := os.Getenv("KUBE_ASSETS")
	if assets == "" {
		return m.Run()
	}
	return program.Build(func(path string) int {
		binary = path
		return runBeside(m, assets)
	})
}

// runBeside runs the tests beside an API server.
func runBeside(m *testing.M, assets string) int {
	log.SetLogger(logr.Discard())
	env, err := stack.ControlPlane("../..", assets, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if server, err = env.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "starting kube-apiserver and etcd from %s: %v\n", assets, err)
		return 1
	}
	code := m.Run()
	if err := env.Stop(); err != nil {
		fmt.Fprintf(os.Stderr, "stopping kube-apiserver and etcd: %v\n", err)
		return 1
	}
	return code
}

// needServer skips a test where there is no API server, or fails it where nothing may be skipped.
func needServer(t *testing.T) {
	t.Helper()
	switch {
	case server != nil:
	case os.Getenv("REQUIRE_KUBE") == "1":
		t.Fatal("KUBE_ASSETS names no folder with kube-apiserver and etcd: run make test-kube.")
	default:
		t.Skip("This test needs a real kube-apiserver and etcd: run it with make test-kube.")
	}
}

// connect returns a client of the API server that nothing else runs against.
func connect(t *testing.T) client.Client {
	t.Helper()
	needServer(t)
	c, err := client.New(server, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return client.WithFieldValidation(c, "Strict")
}

// newStack starts an API server of the test's own, against which nothing runs yet. What the test starts on it ends with the test.
func newStack(t *testing.T) *stack.Stack {
	t.Helper()
	return newStackWith(t, mtls.Files{})
}

// newStackWith is newStack, whose parts believe each other by certificates.
func newStackWith(t *testing.T, files mtls.Files) *stack.Stack {
	t.Helper()
	needServer(t)
	envoy := os.Getenv("ENVOY")
	if envoy == "" {
		t.Fatal("ENVOY names no Envoy: run make test-kube.")
	}
	program.ClearOf(t, 24*time.Hour)
	dir := t.TempDir()
	s, err := stack.Start(t.Context(), stack.Config{
		Project: "../..", Assets: os.Getenv("KUBE_ASSETS"), Binary: binary, Envoy: envoy, Dir: dir, TLS: files, Say: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stopping the stack: %v", err)
		}
		if t.Failed() {
			showLogs(t, dir)
		}
	})
	return s
}

// showLogs tells what the processes of a test that failed said last.
func showLogs(t *testing.T, dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, file := range files {
		content, _ := os.ReadFile(file)
		if len(content) > 6000 {
			content = content[len(content)-6000:]
		}
		t.Logf("the end of %s:\n%s", filepath.Base(file), content)
	}
}

// running is newStack with one operator and one rate-limit service.
func running(t *testing.T) (s *stack.Stack, operator, service *stack.Process) {
	t.Helper()
	s = newStack(t)
	operator, service = startOperator(t, s, "operator-0"), startService(t, s, "ratelimit-0")
	return s, operator, service
}

func startOperator(t *testing.T, s *stack.Stack, identity string, args ...string) *stack.Process {
	t.Helper()
	p, err := s.StartOperator(t.Context(), identity, args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func startService(t *testing.T, s *stack.Stack, name string) *stack.Process {
	t.Helper()
	p, err := s.StartService(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func startEnvoy(t *testing.T, s *stack.Stack, gateway, node string, service *stack.Process) *stack.Process {
	t.Helper()
	p, err := s.StartEnvoy(t.Context(), gateway, node, service.Address)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func apply(t *testing.T, s *stack.Stack, text string) {
	t.Helper()
	if err := s.Apply(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

// await calls check until it is nil.
func await(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(soon)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after %s: %v", what, soon, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(pollEvery):
		}
	}
}

// conditionsOf reads the conditions of an object, which the call fills.
func conditionsOf(ctx context.Context, s *stack.Stack, object client.Object, namespace, name string) ([]metav1.Condition, error) {
	if err := s.Client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, object); err != nil {
		return nil, err
	}
	switch o := object.(type) {
	case *v1alpha1.RateLimitTier:
		return o.Status.Conditions, nil
	case *v1alpha1.ModelLimit:
		return o.Status.Conditions, nil
	case *v1alpha1.ApiKeyQuota:
		return o.Status.Conditions, nil
	case *v1alpha1.UserQuota:
		return o.Status.Conditions, nil
	case *v1alpha1.QuotaGateway:
		return o.Status.Conditions, nil
	}
	return nil, fmt.Errorf("%T has no conditions", object)
}

// awaitCondition waits until a condition of the object's generation has a reason, and returns it.
func awaitCondition(t *testing.T, s *stack.Stack, object client.Object, namespace, name, kind, reason string) metav1.Condition {
	t.Helper()
	var found metav1.Condition
	await(t, fmt.Sprintf("%T %s/%s is %s: %s", object, namespace, name, kind, reason), func() error {
		all, err := conditionsOf(t.Context(), s, object, namespace, name)
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(all, kind)
		if c == nil || c.Reason != reason || c.ObservedGeneration != object.GetGeneration() {
			return fmt.Errorf("conditions are %+v at generation %d", all, object.GetGeneration())
		}
		found = *c
		return nil
	})
	return found
}

// awaitReady waits until an object is in force as written.
func awaitReady(t *testing.T, s *stack.Stack, object client.Object, namespace, name string) {
	t.Helper()
	awaitCondition(t, s, object, namespace, name, v1alpha1.ConditionReady, v1alpha1.ReasonReady)
}

// freePort is a port of loopback for an Envoy, which nobody else is given however long that takes to come.
func freePort(t *testing.T) int {
	t.Helper()
	return port.Reserve(t)
}

// chat asks a gateway for a chat completion with a key, and returns the status and the body.
func chat(ctx context.Context, port int, key string) (int, string, error) {
	return chatBy(ctx, http.DefaultClient, port, key)
}

func chatBy(ctx context.Context, by *http.Client, port int, key string) (int, string, error) {
	const body = `{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}`
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/v1/chat/completions", port), strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+key)
	response, err := by.Do(r)
	if err != nil {
		return 0, "", err
	}
	content, err := io.ReadAll(response.Body)
	return response.StatusCode, string(content), errors.Join(err, response.Body.Close())
}

// awaitStatus waits until a gateway answers a request with a status.
func awaitStatus(t *testing.T, port int, key string, want int) {
	t.Helper()
	await(t, fmt.Sprintf("port %d answers %d", port, want), func() error {
		got, body, err := chat(t.Context(), port, key)
		if err == nil && got != want {
			err = fmt.Errorf("it answers %d %s", got, body)
		}
		return err
	})
}

// gateway is a QuotaGateway at a port, in a namespace, whose routes serve chat completions. More is YAML of its spec.
func gateway(namespace, name string, port int, more ...string) string {
	return fmt.Sprintf(`apiVersion: tierkeeper.io/v1alpha1
kind: QuotaGateway
metadata: {namespace: %s, name: %s}
spec:
  listeners: [{name: http, port: %d, protocol: HTTP}]
  backends: [{name: demo, endpoints: [{address: 127.0.0.1, port: 9}]}]
  identity: {sources: [{header: Authorization, prefix: "Bearer "}]}
  routes:
  - {name: chat, type: Backend, backendName: demo, protocol: OpenAIChatCompletions, resource: chat, matches: [{method: POST, path: {type: Exact, value: /v1/chat/completions}}]}
  %s
`, namespace, name, port, strings.Join(more, "\n  "))
}
