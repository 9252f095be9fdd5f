package envoy

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// What Envoy tells clients by itself stands in the same tables as what the service tells them.
func TestEveryReplyOfEnvoyIsDocumented(t *testing.T) {
	t.Parallel()
	const file = "../../docs/callers.md"
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range ownReplies {
		shapes := "| | |"
		if r.anthropicKind != "" {
			shapes = fmt.Sprintf("| `%s` | `%s` |", r.anthropicKind, descriptor.GoogleStatuses[r.status])
		}
		for _, row := range []string{
			fmt.Sprintf("\n| %d | `%s` %s `%s` |\n", r.status, r.kind, shapes, r.code),
			fmt.Sprintf("\n| `%s` | %s | ", r.code, r.message),
		} {
			if !strings.Contains(string(doc), row) {
				t.Errorf("%s lacks the row %s", file, strings.TrimSpace(row))
			}
		}
	}
}
