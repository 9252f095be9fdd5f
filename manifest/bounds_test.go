package manifest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/manifest"
)

// What is wrong a hundred thousand times is told a few times: whoever writes a manifest must not keep the process busy.
func TestProblemsOfOneObjectAreBounded(t *testing.T) {
	t.Parallel()
	var unknown, doubled strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&unknown, ",\"f%d\":1", i)
		doubled.WriteString(`,"limits":{}`)
	}
	for name, fields := range map[string]string{"unknown fields": unknown.String(), "a field that stands twice": doubled.String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "a.json")
			content := `{"apiVersion":"tierkeeper.io/v1alpha1","kind":"RateLimitTier","metadata":{"name":"x"},"spec":{"priority":"Low"` + fields + `}}`
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			found := new(manifest.Loader).Load(path)
			if n := len(found.Problems); n == 0 || n > 20 {
				t.Errorf("%d problems are told, want some and at most 20", n)
			}
		})
	}
}
