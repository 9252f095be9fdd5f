package manifest_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/tierkeeper/tierkeeper/manifest"
)

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// Each case has a directory and steps that change what it says, each of which must be told.
func TestWatch(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		arrange func(t *testing.T, dir string)
		steps   []func(t *testing.T, dir string)
	}{
		"files are written, renamed over, removed and made": {
			arrange: func(t *testing.T, dir string) { put(t, dir, map[string]string{"a.yaml": tier("a", 1)}) },
			steps: []func(t *testing.T, dir string){
				func(t *testing.T, dir string) { put(t, dir, map[string]string{"a.yaml": tier("a", 2)}) },
				func(t *testing.T, dir string) {
					put(t, dir, map[string]string{".a.yaml.tmp": tier("a", 3)})
					rename(t, filepath.Join(dir, ".a.yaml.tmp"), filepath.Join(dir, "a.yaml"))
				},
				func(t *testing.T, dir string) { put(t, dir, map[string]string{"a.yaml": tier("a", 4)}) },
				func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "a.yaml")) },
				func(t *testing.T, dir string) { put(t, dir, map[string]string{"b.json": "{}"}) },
			},
		},
		"directories come, change and go": {
			arrange: func(t *testing.T, dir string) { put(t, dir, map[string]string{"a.yaml": tier("a", 1)}) },
			steps: []func(t *testing.T, dir string){
				func(t *testing.T, dir string) {
					put(t, dir, map[string]string{"one/two/three.d/b.yaml": tier("b", 1)})
				},
				func(t *testing.T, dir string) {
					put(t, dir, map[string]string{"one/two/three.d/b.yaml": tier("b", 2)})
				},
				func(t *testing.T, dir string) { rename(t, filepath.Join(dir, "one"), filepath.Join(dir, "uno")) },
				func(t *testing.T, dir string) {
					put(t, dir, map[string]string{"uno/two/three.d/b.yaml": tier("b", 3)})
				},
				func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "uno")) },
			},
		},
		"the volume of a ConfigMap is swapped": {
			arrange: func(t *testing.T, dir string) {
				put(t, dir, map[string]string{"..1/a.yaml": tier("a", 1)})
				link(t, "..1", filepath.Join(dir, "..data"))
				link(t, "..data/a.yaml", filepath.Join(dir, "a.yaml"))
			},
			steps: []func(t *testing.T, dir string){
				func(t *testing.T, dir string) {
					put(t, dir, map[string]string{"..2/a.yaml": tier("a", 2)})
					link(t, "..2", filepath.Join(dir, "..data_tmp"))
					rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
					remove(t, filepath.Join(dir, "..1"))
				},
				func(t *testing.T, dir string) {
					put(t, dir, map[string]string{"..3/a.yaml": tier("a", 3)})
					link(t, "..3", filepath.Join(dir, "..data_tmp"))
					rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
				},
			},
		},
		"the directory itself is a link that is turned": {
			arrange: func(t *testing.T, dir string) {
				put(t, dir+"-1", map[string]string{"a.yaml": tier("a", 1)})
				put(t, dir+"-2", map[string]string{"a.yaml": tier("a", 2)})
				remove(t, dir)
				link(t, dir+"-1", dir)
			},
			steps: []func(t *testing.T, dir string){
				func(t *testing.T, dir string) {
					link(t, dir+"-2", dir+"-new")
					rename(t, dir+"-new", dir)
				},
				func(t *testing.T, dir string) { put(t, dir+"-2", map[string]string{"a.yaml": tier("a", 3)}) },
			},
		},
		"a file behind a link changes": {
			arrange: func(t *testing.T, dir string) {
				put(t, dir+"-other", map[string]string{"shared": tier("a", 1)})
				link(t, dir+"-other/shared", filepath.Join(dir, "a.yaml"))
			},
			steps: []func(t *testing.T, dir string){
				func(t *testing.T, dir string) { put(t, dir+"-other", map[string]string{"shared": tier("a", 2)}) },
				func(t *testing.T, dir string) {
					put(t, dir+"-other", map[string]string{"new": tier("a", 3)})
					rename(t, dir+"-other/new", dir+"-other/shared")
				},
			},
		},
		"the directory goes and comes again": {
			arrange: func(t *testing.T, dir string) { put(t, dir, map[string]string{"a.yaml": tier("a", 1)}) },
			steps: []func(t *testing.T, dir string){
				func(t *testing.T, dir string) { remove(t, dir) },
				func(t *testing.T, dir string) { put(t, dir, map[string]string{"a.yaml": tier("a", 2)}) },
				func(t *testing.T, dir string) { put(t, dir, map[string]string{"a.yaml": tier("a", 3)}) },
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "manifests")
			put(t, dir, nil)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			tc.arrange(t, dir)
			changes, err := manifest.Watch(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			for i, step := range tc.steps {
				step(t, dir)
				told(t, changes, i+1)
			}
		})
	}
}

// told waits for a change. A step may be told more than once, so all that follow at once belong to it.
func told(t *testing.T, changes <-chan manifest.Change, step int) {
	t.Helper()
	late := time.After(20 * time.Second)
	select {
	case c := <-changes:
		if c.Err != nil {
			t.Fatalf("step %d: %v", step, c.Err)
		}
	case <-late:
		t.Fatalf("step %d was not told", step)
	}
	for {
		select {
		case <-changes:
		case <-time.After(3 * manifest.Quiet):
			return
		}
	}
}

// What cannot change the manifests must not be told: a counter file beside them is written every second.
func TestWatchIsSilent(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "manifests")
	put(t, dir, map[string]string{"a.yaml": tier("a", 1)})
	changes, err := manifest.Watch(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, map[string]string{".a.yaml.swp": "x", "counters.db": "x", "a.yaml~": "x"})
	put(t, filepath.Dir(dir), map[string]string{"beside.yaml": "x"})
	select {
	case c := <-changes:
		t.Errorf("want silence, got %+v", c)
	case <-time.After(5 * manifest.Quiet):
	}
	put(t, dir, map[string]string{"a.yaml": tier("a", 2)})
	told(t, changes, 1)
}

func TestWatchEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	changes, err := manifest.Watch(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for range changes { // until it is closed
	}
}

// In synctest time passes only while everything waits, so these durations are exact.
func TestSettle(t *testing.T) {
	t.Parallel()
	all := func(fsnotify.Event) bool { return true }
	cases := map[string]struct {
		every time.Duration
		times int
		want  time.Duration
	}{
		"one event":                {0, 1, manifest.Quiet},
		"several close together":   {manifest.Quiet / 2, 4, 3*manifest.Quiet/2 + manifest.Quiet},
		"they do not end":          {manifest.Quiet / 2, 1000, manifest.Longest},
		"the second is on its own": {2 * manifest.Quiet, 2, manifest.Quiet},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				events := make(chan fsnotify.Event)
				go func() {
					for range tc.times {
						select {
						case events <- fsnotify.Event{Name: "a"}:
						case <-ctx.Done():
							return
						}
						select {
						case <-time.After(tc.every):
						case <-ctx.Done():
							return
						}
					}
				}()
				began := time.Now() //nolint:forbidigo // It is the bubble's clock.
				if !manifest.Settle(ctx, events, nil, all) {
					t.Error("want a change")
				}
				if took := time.Since(began); took != tc.want { //nolint:forbidigo // It is the bubble's clock.
					t.Errorf("want it told after %v, got %v", tc.want, took)
				}
			})
		})
	}
}

func TestSettleWaitsForWhatCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		events := make(chan fsnotify.Event)
		go func() { events <- fsnotify.Event{Name: "a"} }()
		if manifest.Settle(ctx, events, nil, func(fsnotify.Event) bool { return false }) {
			t.Error("want nothing to be told")
		}
		lost := make(chan error)
		go func() { lost <- fsnotify.ErrEventOverflow }()
		if !manifest.Settle(t.Context(), events, lost, func(fsnotify.Event) bool { return false }) {
			t.Error("want lost events to be told")
		}
	})
}
