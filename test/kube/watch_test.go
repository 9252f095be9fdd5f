package kube_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

var kinds = []string{"RateLimitTier", "ModelLimit", "ApiKeyQuota", "UserQuota", "QuotaGateway"}

// everything lists all objects of our kinds.
func everything(ctx context.Context, c client.Client) (all []unstructured.Unstructured, err error) {
	for _, kind := range kinds {
		list := listOf(kind)
		if err := c.List(ctx, list); err != nil {
			return nil, err
		}
		all = append(all, list.Items...)
	}
	return all, nil
}

func listOf(kind string) *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind + "List"))
	return list
}

func nameOf(o *unstructured.Unstructured) string {
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// conditionsIn reads what the operator says of an object of any kind, by type: not the conditions that tell of usage.
func conditionsIn(o *unstructured.Unstructured) map[string]metav1.Condition {
	all := map[string]metav1.Condition{}
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, item := range list {
		fields, _ := item.(map[string]any)
		get := func(name string) string { s, _ := fields[name].(string); return s }
		generation, _ := fields["observedGeneration"].(int64)
		if !slices.Contains([]string{v1alpha1.ConditionAccepted, v1alpha1.ConditionProgrammed, v1alpha1.ConditionReady}, get("type")) {
			continue
		}
		at, _ := time.Parse(time.RFC3339, get("lastTransitionTime"))
		all[get("type")] = metav1.Condition{
			Type: get("type"), LastTransitionTime: metav1.NewTime(at), Status: metav1.ConditionStatus(get("status")), Reason: get("reason"), Message: get("message"), ObservedGeneration: generation,
		}
	}
	return all
}

// awaitAllReady waits until all objects there are, of any kind, are in force as written.
func awaitAllReady(t *testing.T, s *stack.Stack) {
	t.Helper()
	await(t, "all objects are Ready", func() error {
		all, err := everything(t.Context(), s.Client)
		if err != nil {
			return err
		}
		var errs []error
		for i := range all {
			c := conditionsIn(&all[i])[v1alpha1.ConditionReady]
			if c.Status != metav1.ConditionTrue || c.ObservedGeneration != all[i].GetGeneration() {
				errs = append(errs, fmt.Errorf("%s: %s %s", nameOf(&all[i]), c.Reason, c.Message))
			}
		}
		return errors.Join(errs...)
	})
}

// transitions says since when each condition of each object has its status, but for the objects that a test edits. What left it
// meanwhile, and came back, tells by that.
func transitions(t *testing.T, s *stack.Stack, edited ...string) map[string]string {
	t.Helper()
	all, err := everything(t.Context(), s.Client)
	if err != nil {
		t.Fatal(err)
	}
	since := map[string]string{}
	for i := range all {
		name := nameOf(&all[i])
		if slices.Contains(edited, name) {
			continue
		}
		for kind, c := range conditionsIn(&all[i]) {
			since[name+" "+kind] = fmt.Sprint(c.Status, " since ", c.LastTransitionTime.UTC().Format(time.TimeOnly))
		}
	}
	return since
}

// A recorder watches the conditions of all objects, every change of them.
type recorder struct {
	mu      sync.Mutex
	seen    map[string]string                      // the last resource version, by object
	last    map[string]map[string]metav1.Condition // by object and type
	events  int
	departs map[string][]string // conditions that were True and are not, by object
}

// record starts a recorder, which ends with the test.
func record(t *testing.T, s *stack.Stack) *recorder {
	t.Helper()
	c, err := client.NewWithWatch(s.Cluster, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{seen: map[string]string{}, last: map[string]map[string]metav1.Condition{}, departs: map[string][]string{}}
	for _, kind := range kinds {
		w, err := c.Watch(t.Context(), listOf(kind))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		go func() {
			for e := range w.ResultChan() {
				r.take(e)
			}
		}()
	}
	return r
}

func (r *recorder) take(e watch.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events++
	o, ok := e.Object.(*unstructured.Unstructured)
	if !ok || e.Type == watch.Error {
		r.departs["the watch"] = append(r.departs["the watch"], fmt.Sprintf("it broke: %v", e.Object))
		return
	}
	name, now := nameOf(o), conditionsIn(o)
	for kind, before := range r.last[name] {
		if before.Status == metav1.ConditionTrue && now[kind].Status != metav1.ConditionTrue {
			r.departs[name] = append(r.departs[name], fmt.Sprintf("%s is %q, %s: %s", kind, now[kind].Status, now[kind].Reason, now[kind].Message))
		}
	}
	r.last[name], r.seen[name] = now, o.GetResourceVersion()
}

// neverLeft fails the test if a condition was True once and later not. It waits until the recorder has seen all there is.
// Of what was edited meanwhile nothing is asked.
func (r *recorder) neverLeft(t *testing.T, s *stack.Stack, edited ...string) {
	t.Helper()
	await(t, "the recorder has seen every object as it is", func() error {
		all, err := everything(t.Context(), s.Client)
		if err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for i := range all {
			if name := nameOf(&all[i]); !notOlder(r.seen[name], all[i].GetResourceVersion()) {
				return fmt.Errorf("%s was seen at %q last, and is at %q", name, r.seen[name], all[i].GetResourceVersion())
			}
		}
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Logf("%d changes of %d objects were seen", r.events, len(r.seen))
	for name, words := range r.departs {
		if !slices.Contains(edited, name) {
			t.Errorf("%s left True: %s", name, strings.Join(words, "; "))
		}
	}
}

func notOlder(seen, there string) bool {
	a, errA := strconv.ParseUint(seen, 10, 64)
	b, errB := strconv.ParseUint(there, 10, 64)
	return errA == nil && errB == nil && a >= b
}
