package manifest_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/manifest"
)

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func TestTree(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		arrange func(t *testing.T, dir string)
		want    []string
	}{
		"files below, in order, by their endings": {
			arrange: func(t *testing.T, dir string) {
				put(t, dir, map[string]string{"b.yml": tier("b", 1), "a/x.yaml": tier("a", 1), "c.txt": "{", "d.yaml~": "{"})
			},
			want: []string{"tier a=1", "tier b=1"},
		},
		"the volume of a ConfigMap": {
			arrange: func(t *testing.T, dir string) {
				put(t, dir, map[string]string{"..2030_01_01/tiers.yaml": tier("a", 1)})
				link(t, "..2030_01_01", filepath.Join(dir, "..data"))
				link(t, "..data/tiers.yaml", filepath.Join(dir, "tiers.yaml"))
			},
			want: []string{"tier a=1"},
		},
		"a directory linked from elsewhere": {
			arrange: func(t *testing.T, dir string) {
				other := t.TempDir()
				put(t, other, map[string]string{"a.yaml": tier("a", 1)})
				link(t, other, filepath.Join(dir, "other"))
			},
			want: []string{"tier a=1"},
		},
		"what two links lead to is read once": {
			arrange: func(t *testing.T, dir string) {
				put(t, dir, map[string]string{"real/a.yaml": tier("a", 1), "b.yaml": tier("b", 1)})
				link(t, "real", filepath.Join(dir, "link"))
				link(t, "../b.yaml", filepath.Join(dir, "real", "b.yaml"))
			},
			want: []string{"tier a=1", "tier b=1"},
		},
		"a link to a directory above": {
			arrange: func(t *testing.T, dir string) {
				put(t, dir, map[string]string{"sub/a.yaml": tier("a", 1)})
				link(t, "..", filepath.Join(dir, "sub", "up"))
			},
			want: []string{"tier a=1", "DIR/sub/up: This symbolic link leads back to a directory above it; remove it."},
		},
		"a link to itself, and one to nothing": {
			arrange: func(t *testing.T, dir string) {
				put(t, dir, map[string]string{"a.yaml": tier("a", 1)})
				link(t, "loop.yaml", filepath.Join(dir, "loop.yaml"))
				link(t, "nowhere", filepath.Join(dir, "nothing.yaml"))
			},
			want: []string{
				"tier a=1",
				"DIR/loop.yaml: This symbolic link leads in a circle; remove it.",
				"DIR/nothing.yaml: There is no such file or directory.",
			},
		},
		"a pipe": {
			arrange: func(t *testing.T, dir string) {
				put(t, dir, map[string]string{"a.yaml": tier("a", 1)})
				if err := syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"tier a=1", "DIR/pipe.yaml: This is not a regular file, so it cannot be read as a manifest."},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			tc.arrange(t, dir)
			if diff := cmp.Diff(tc.want, says(dir, new(manifest.Loader).Load(dir))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			name := filepath.Join(t.TempDir(), "link")
			link(t, dir, name)
			want := append([]string{}, tc.want...)
			if diff := cmp.Diff(want, says(name, new(manifest.Loader).Load(name))); diff != "" {
				t.Errorf("through a link (-want +got):\n%s", diff)
			}
		})
	}
}

// Root may read everything, so this says nothing where tests run as root but that all is well.
func TestUnreadableFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, map[string]string{"a.yaml": tier("a", 1), "sub/b.yaml": tier("b", 1)})
	var loader manifest.Loader
	loader.Load(dir)
	for _, name := range []string{"a.yaml", "sub"} {
		if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "sub"), 0o700) }) // so that it can be removed
	want := []string{"tier a=1", "tier b=1"}
	if _, err := os.ReadFile(filepath.Join(dir, "a.yaml")); err != nil {
		want = append(want,
			"DIR/a.yaml: Permission to read this is denied. Keeping the last good version.",
			"DIR/sub: Permission to read this is denied. Keeping the last good version.")
	}
	if diff := cmp.Diff(want, says(dir, loader.Load(dir))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSingleFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, map[string]string{"tiers": tier("a", 1), "b.yaml": "{"})
	if diff := cmp.Diff([]string{"tier a=1"}, says(dir, new(manifest.Loader).Load(filepath.Join(dir, "tiers")))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Names of files are as the user gave the directory, so that they can be opened from where the user is.
func TestRelativePath(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, map[string]string{"sub/a.yaml": "kind: ["})
	t.Chdir(dir)
	for path, want := range map[string]string{".": "sub/a.yaml:1: ", "./sub/": "sub/a.yaml:1: ", "sub/a.yaml": "sub/a.yaml:1: "} {
		r := new(manifest.Loader).Load(path)
		if len(r.Problems) != 1 || !strings.HasPrefix(r.Problems[0].String(), want) {
			t.Errorf("Load(%q) = %v, want a problem that begins with %q", path, r.Problems, want)
		}
	}
}
