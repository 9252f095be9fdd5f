package ratelimit

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// What clients are told is documented in one table, line by line.
func TestEveryDenialIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	denials := []denial{
		missingKey, unknownKey, conflictingKeys, foreignKey, suspendedKey, expiredKey, pendingKey,
		badModel, tooManyLimits, notReady, concurrencyDenial,
	}
	for _, d := range limitDenials {
		denials = append(denials, d)
	}
	for _, d := range denials {
		row := fmt.Sprintf("| %d | `%s` | `%s` | `%s` |", d.status, d.kind, d.anthropicKind, d.code)
		if !strings.Contains(string(doc), row) {
			t.Errorf("docs/errors.md lacks a row that begins %s", row)
		}
	}
}
