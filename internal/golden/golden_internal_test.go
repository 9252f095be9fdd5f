package golden

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recorder is a test that notes why it failed.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// folder makes a folder of files, content by path.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// files reads a folder back.
func files(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(root, path)
		out[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		before  map[string]string
		rewrite bool
		want    []string // what each failure mentions
		after   map[string]string
	}{
		"equal files pass": {
			before: map[string]string{"in": "i", "out": "new"},
			after:  map[string]string{"in": "i", "out": "new"},
		},
		"a stale file fails and stays": {
			before: map[string]string{"in": "i", "out": "old"},
			want:   []string{"out differs"},
			after:  map[string]string{"in": "i", "out": "old"},
		},
		"a missing file fails": {
			before: map[string]string{"in": "i"},
			want:   []string{"out is missing"},
			after:  map[string]string{"in": "i"},
		},
		"a left-over file fails and stays": {
			before: map[string]string{"in": "i", "out": "new", "gone": "x"},
			want:   []string{"nothing writes"},
			after:  map[string]string{"in": "i", "out": "new", "gone": "x"},
		},
		"update rewrites, adds and deletes, and leaves the input": {
			before:  map[string]string{"in": "i", "out": "old", "gone": "x", "deep/gone": "x"},
			rewrite: true,
			after:   map[string]string{"in": "i", "out": "new"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, r := folder(t, tc.before), &recorder{TB: t}
			check(r, dir, map[string][]byte{"out": []byte("new")}, []string{"in"}, tc.rewrite)
			mention(t, tc.want, r.errors)
			if diff := cmp.Diff(tc.after, files(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCases(t *testing.T) {
	t.Parallel()
	before := map[string]string{"b/in": "", "a/in": "", "orphan/out": "", "fuzz/FuzzX/1": "", "README": ""}
	for name, tc := range map[string]struct {
		rewrite bool
		want    []string
		after   map[string]string
	}{
		"a folder without input fails and stays": {want: []string{"orphan has no in"}, after: before},
		"update deletes a folder without input":  {rewrite: true, after: map[string]string{"b/in": "", "a/in": "", "fuzz/FuzzX/1": "", "README": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, r := folder(t, before), &recorder{TB: t}
			if diff := cmp.Diff([]string{"a", "b"}, cases(r, dir, "in", tc.rewrite)); diff != "" {
				t.Errorf("cases (-want +got):\n%s", diff)
			}
			mention(t, tc.want, r.errors)
			if diff := cmp.Diff(tc.after, files(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func mention(t *testing.T, want, errors []string) {
	t.Helper()
	if len(want) != len(errors) {
		t.Fatalf("got failures %q, want them to mention %q", errors, want)
	}
	for i := range want {
		if !strings.Contains(errors[i], want[i]) {
			t.Errorf("failure %q does not mention %q", errors[i], want[i])
		}
	}
}
