// Package golden decides whether what a test produced is what stands in the files kept beside the test, and rewrites those
// files when the test is run with -update. A case is a folder that holds its input and every output; a file in it that is
// neither, and a folder without input, are left over from something that is gone, and fail the test until -update deletes them.
//
// Only tests may import it: it registers a flag.
package golden

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files, and delete those that nothing writes any more")

var toolFolders = []string{"fuzz", "rapid"}

// Cases lists the names of the folders in root that hold a file of the name input, sorted. It fails the test if there is
// none. Folders in which tools keep inputs that once failed (go test -fuzz, rapid) are no cases.
func Cases(t testing.TB, root, input string) []string {
	t.Helper()
	return cases(t, root, input, *update)
}

// Check compares the outputs, content by file name, with the files of the folder dir. Files of the names inputs are left
// alone; nothing else may lie in the folder.
func Check(t testing.TB, dir string, outputs map[string][]byte, inputs ...string) {
	t.Helper()
	check(t, dir, outputs, inputs, *update)
}

func cases(t testing.TB, root, input string, rewrite bool) []string {
	t.Helper()
	dir := open(t, root)
	var names []string
	for _, e := range list(t, dir) {
		if !e.IsDir() || slices.Contains(toolFolders, e.Name()) {
			continue
		}
		_, err := dir.Stat(filepath.Join(e.Name(), input))
		switch {
		case err == nil:
			names = append(names, e.Name())
		case !errors.Is(err, fs.ErrNotExist):
			t.Fatal(err)
		case !rewrite:
			t.Errorf("%s has no %s: write one, or delete the folder with -update", filepath.Join(root, e.Name()), input)
		default:
			must(t, dir.RemoveAll(e.Name()))
		}
	}
	if len(names) == 0 {
		t.Fatalf("%s holds no folder with a file %s", root, input)
	}
	return names
}

func check(t testing.TB, path string, outputs map[string][]byte, inputs []string, rewrite bool) {
	t.Helper()
	dir := open(t, path)
	if rewrite {
		for name, content := range outputs {
			must(t, dir.WriteFile(name, content, 0o644))
		}
	}
	for _, e := range list(t, dir) {
		if _, isOutput := outputs[e.Name()]; isOutput || slices.Contains(inputs, e.Name()) {
			continue
		}
		if !rewrite {
			t.Errorf("nothing writes %s: delete it with -update", filepath.Join(path, e.Name()))
			continue
		}
		must(t, dir.RemoveAll(e.Name()))
	}
	for name, content := range outputs {
		want, err := dir.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err != nil {
			t.Errorf("%s is missing: write it with -update", filepath.Join(path, name))
			continue
		}
		if diff := cmp.Diff(string(want), string(content)); diff != "" {
			t.Errorf("%s differs (-want +got); if the new content is right, rewrite it with -update\n%s", filepath.Join(path, name), diff)
		}
	}
}

// open returns the folder as a root, so that no name leads out of it.
func open(t testing.TB, path string) *os.Root {
	t.Helper()
	dir, err := os.OpenRoot(path)
	must(t, err)
	t.Cleanup(func() { must(t, dir.Close()) })
	return dir
}

func list(t testing.TB, dir *os.Root) []fs.DirEntry {
	t.Helper()
	entries, err := fs.ReadDir(dir.FS(), ".")
	must(t, err)
	return entries
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
