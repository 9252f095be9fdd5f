package demo_test

import (
	"strings"
	"testing"
)

func TestTheListOfModelsNamesSome(t *testing.T) {
	t.Parallel()
	f := start(t)
	a := parse(t, f.do(t, "GET", "/v1/models", "").body)
	list := a["data"].([]any)
	if a["object"] != "list" || len(list) == 0 {
		t.Fatalf("got %v", a)
	}
	for _, m := range list {
		if m := m.(map[string]any); m["object"] != "model" || m["id"] == "" || m["owned_by"] == "" || m["created"] == 0.0 {
			t.Errorf("a model is %v", m)
		}
	}
	if a := f.post(t, "/v1/models", ""); a.status != 405 || !strings.Contains(a.body, "GET only") {
		t.Errorf("POST: got %d %s", a.status, a.body)
	}
}

func TestAVideoIsQueuedAndNeverDone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ method, path, body, want string }{
		"queued": {
			"POST", "/api/v1/video/queue", `{"model":"wan-2.1","prompt":"a red fox"}`,
			`{"model":"wan-2.1","queue_id":"video-000000000000000000000001"}`,
		},
		"asked for":        {"POST", "/v1/video/retrieve", `{"model":"wan-2.1","queue_id":"video-7"}`, `{"queue_id":"video-7","status":"processing"}`},
		"asked for by GET": {"GET", "/v1/video/retrieve?queue_id=video-7", "", `{"queue_id":"video-7","status":"processing"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a := start(t).do(t, tc.method, tc.path, tc.body); a.err != nil || a.body != tc.want {
				t.Errorf("got %s (%v), want %s", a.body, a.err, tc.want)
			}
		})
	}
}
