package ratelimit

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// What clients are told is documented in two tables, line by line.
func TestEveryDenialIsDocumented(t *testing.T) {
	t.Parallel()
	const file = "../docs/callers.md"
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	denials := []denial{
		missingKey, unknownKey, conflictingKeys, foreignKey, suspendedKey, expiredKey, pendingKey,
		badModel, unknownModel, tooManyLimits, notReady, concurrencyDenial,
	}
	for _, d := range limitDenials {
		denials = append(denials, d)
	}
	for _, d := range denials {
		for _, row := range []string{
			fmt.Sprintf("\n| %d | `%s` | `%s` | `%s` | `%s` |\n", d.status, d.kind, d.anthropicKind, descriptor.GoogleStatuses[d.status], d.code),
			fmt.Sprintf("\n| `%s` | %s | ", d.code, strings.Replace(d.message, "%d", "N", 1)),
		} {
			if !strings.Contains(string(doc), row) {
				t.Errorf("%s lacks the row %s", file, strings.TrimSpace(row))
			}
		}
	}
}
