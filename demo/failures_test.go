package demo_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/demo"
)

func TestTheFirstRequestsFail(t *testing.T) {
	t.Parallel()
	f := start(t)
	send := func(headers ...string) int { return f.post(t, chatPath, chatBody, headers...).status }
	var got []int
	for range 3 {
		got = append(got, send("x-demo-fail-first: 2", "x-demo-fail-id: a", "x-demo-status: 429"))
		got = append(got, send("x-demo-fail-first: 1", "x-demo-fail-id: b"))
		got = append(got, send("x-demo-fail-first: 1"))
		got = append(got, send())
	}
	want := []int{429, 503, 503, 200, 429, 200, 200, 200, 200, 200, 200, 200}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	body := f.post(t, chatPath, chatBody, "x-demo-fail-first: 1", "x-demo-fail-id: c").body
	e, _ := parse(t, body)["error"].(map[string]any)
	if want := "The demo upstream answers 503 because x-demo-fail-first says so."; e["message"] != want {
		t.Errorf("message %q, want %q", e["message"], want)
	}
}

func TestOfManyAtOnceExactlyTheFirstFail(t *testing.T) {
	t.Parallel()
	f := start(t)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { f.do(t, http.MethodPost, chatPath, chatBody, "x-demo-fail-first: 7", "x-demo-fail-id: a") })
	}
	all.Wait()
	f.server.Close()
	failed := 0
	for _, r := range f.Requests() {
		if r.Status == http.StatusServiceUnavailable {
			failed++
		}
	}
	if failed != 7 {
		t.Errorf("%d failed, want 7", failed)
	}
}

// What clients choose must not fill the memory: after a thousand names the first is a new one.
func TestFailIDsAreForgotten(t *testing.T) {
	t.Parallel()
	f := start(t, demo.WithHistory(1))
	fail := func(id int) int {
		return f.post(t, "/", "", "x-demo-fail-first: 1", fmt.Sprintf("x-demo-fail-id: %d", id)).status
	}
	for id := range 1000 {
		fail(id)
	}
	if got := []int{fail(999), fail(1000), fail(0)}; !cmp.Equal(got, []int{200, 503, 503}) {
		t.Errorf("got %v", got)
	}
}
