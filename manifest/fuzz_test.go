package manifest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/manifest"
)

// FuzzLoad reads a file of any content: Load must not crash, must tell of each thing in it, and must say the same twice.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/claims/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content, false)
	}
	f.Add([]byte(secret("data: {a: eA==}\nstringData: {token: CANARY, b: *x}")), false)
	f.Add([]byte(quota("  keys: [{name: a, digest: CANARY}]")), false)
	f.Add([]byte("a: &a [*a]\n--- !!x\n...\n%YAML 1.1\n--- >\n x"), false)
	f.Add([]byte(`{"kind": "List", "items": [{"a": 1, "a": 2}]} null 5`), true)
	f.Fuzz(func(t *testing.T, content []byte, isJSON bool) {
		dir := t.TempDir()
		name := filepath.Join(dir, "a.yaml")
		if isJSON {
			name = filepath.Join(dir, "a.json")
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		var loader manifest.Loader
		first := loader.Load(dir)
		lines := strings.Count(string(content), "\n") + 1
		for _, p := range first.Problems {
			if p.Message == "" || p.Reason == "" || p.Kept {
				t.Errorf("want a problem with words that keeps nothing, got %+v", p)
			}
			// YAML knows line ends that nobody else does.
			if p.Line > lines && !strings.ContainsAny(string(content), "\r\u0085\u2028\u2029") {
				t.Errorf("want a line up to %d, got %+v", lines, p)
			}
		}
		if a, b := fmt.Sprintf("%v", first.Problems), fmt.Sprintf("%v", new(manifest.Loader).Load(dir).Problems); a != b {
			t.Errorf("want the same from a second Loader, got\n%s\n%s", a, b)
		}
		if again := loader.Load(dir); len(again.Problems) != len(first.Problems) || len(again.Sources) != len(first.Sources) {
			t.Errorf("want the same from a second Load, got\n%v\n%v", first.Problems, again.Problems)
		}
	})
}
