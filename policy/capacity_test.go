package policy_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/policy"
)

// A group can have a capacity at one gateway and none at another, where its parent has one.
const capacities = `
kind: ModelLimit
metadata: {name: parent, labels: {at: both}}
spec: {models: [gpt-all], capacity: {concurrentRequests: 9, queue: {maxLength: 9, maxWaitSeconds: 60}}}
---
kind: ModelLimit
metadata: {name: child, labels: {at: one}}
spec: {models: [gpt-4o], parentRef: {name: parent}, capacity: {concurrentRequests: 9, queue: {maxLength: 9, maxWaitSeconds: 90}}}
---
kind: ModelLimit
metadata: {name: tried, labels: {at: one}}
spec: {models: [o1], enforcement: Shadow, capacity: {concurrentRequests: 9, queue: {maxLength: 9, maxWaitSeconds: 300}}}
---
kind: ModelLimit
metadata: {name: unbounded, labels: {at: one}}
spec: {models: [o2]}
---
kind: QuotaGateway
metadata: {name: all, namespace: infra}
---
kind: QuotaGateway
metadata: {name: one, namespace: infra}
spec: {modelLimitSelector: {matchLabels: {at: one}}}
---
kind: QuotaGateway
metadata: {name: tries, namespace: infra}
spec: {enforcement: Shadow}
`

func TestCapacitiesAreThoseOfAllGateways(t *testing.T) {
	t.Parallel()
	var in policy.Input
	for document := range strings.SplitSeq(capacities, "---\n") {
		addDocument(t, &in, []byte(document))
	}
	table, _ := policy.Compile(in)
	if diff := cmp.Diff([]string{"child", "parent"}, slices.Sorted(maps.Keys(table.Capacities()))); diff != "" {
		t.Errorf("capacities that are enforced (-want +got):\n%s", diff)
	}
	waits := map[string]time.Duration{}
	for _, g := range table.Gateways() {
		waits[g.Name.Name] = g.MaxWait
	}
	if diff := cmp.Diff(map[string]time.Duration{"all": time.Minute, "one": 90 * time.Second, "tries": 0}, waits); diff != "" {
		t.Errorf("the longest waits (-want +got):\n%s", diff)
	}
}
