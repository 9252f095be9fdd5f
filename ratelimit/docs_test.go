package ratelimit

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

const callersDoc = "../docs/callers.md"

func readCallersDoc(t *testing.T) string {
	t.Helper()
	doc, err := os.ReadFile(callersDoc)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// What clients are told is documented in two tables, line by line.
func TestEveryDenialIsDocumented(t *testing.T) {
	t.Parallel()
	doc := readCallersDoc(t)
	denials := []denial{
		missingKey, unknownKey, conflictingKeys, foreignKey, suspendedKey, expiredKey, pendingKey,
		badModel, unknownModel, tooManyLimits, storeOut, notReady, concurrencyDenial, tooManyFailures(20),
	}
	for _, d := range limitDenials {
		denials = append(denials, d)
	}
	for _, d := range capacityDenials {
		denials = append(denials, d)
	}
	for _, d := range denials {
		for _, row := range []string{
			fmt.Sprintf("\n| %d | `%s` | `%s` | `%s` | `%s` |\n", d.status, d.kind, d.anthropicKind, descriptor.GoogleStatuses[d.status], d.code),
			fmt.Sprintf("\n| `%s` | %s | ", d.code, strings.Replace(d.message, "%d", "N", 1)),
		} {
			if !strings.Contains(doc, row) {
				t.Errorf("%s lacks the row %s", callersDoc, strings.TrimSpace(row))
			}
		}
	}
}

func TestEveryHeaderIsDocumented(t *testing.T) {
	t.Parallel()
	doc := readCallersDoc(t)
	var limits []policy.Limit
	for metric := policy.Requests; metric <= policy.OutputTokens; metric++ {
		limits = append(limits, policy.Limit{Status: 429, Pair: policy.Pair{Metric: metric, Per: policy.Minute}})
	}
	gateway := &policy.Gateway{
		PerMetric: &policy.PerMetric{}, PerResource: &policy.PerResource{}, IETF: &policy.IETFHeaders{}, Anthropic: &policy.AnthropicHeaders{},
	}
	everything := report{
		gateway: gateway, terms: &policy.Terms{}, plan: &plan{shape: newShape(limits), holder: &policy.Holder{}}, counts: make([]counter.Count, len(limits)), resource: "chat",
	}
	headers := everything.deny(0, descriptor.ProtocolOpenAIChat).Headers()
	if all := 2 + 6 + 6 + 2 + 12; len(headers) != all {
		t.Errorf("there are %d headers, want %d: of a denial, and of each dialect", len(headers), all)
	}
	for _, h := range headers {
		if !strings.Contains(doc, "`"+h.Name+"`") {
			t.Errorf("%s does not say what %s is", callersDoc, h.Name)
		}
	}
}
