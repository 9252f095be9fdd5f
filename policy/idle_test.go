package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tierkeeper/tierkeeper/policy"
)

func TestFieldsWithoutEffectAreNamed(t *testing.T) {
	t.Parallel()
	const (
		may    = "kind: RateLimitTier\nmetadata: {name: may}\nspec: {queue: {mode: Wait, maxWaitSeconds: 5}}"
		mayNot = "kind: RateLimitTier\nmetadata: {name: may-not}\nspec: {queue: {mode: Refuse}}"
		pooled = "kind: RateLimitTier\nmetadata: {name: pooled}\nspec: {backendPool: big}"
		queue  = "kind: ModelLimit\nmetadata: {name: m}\nspec: {models: [m], capacity: {concurrentRequests: 3, queue: {maxLength: 9, maxWaitSeconds: 5}"
		shares = ", reserved: [{tierName: may, concurrentRequests: 1}, {tierName: may-not, concurrentRequests: 1}]"
		full   = "kind: ModelLimit\nmetadata: {name: m}\nspec: {models: [m], capacity: {concurrentRequests: 3" + shares + "}}"
		plain  = "10.0.0.7, port: 80}, {address: 10.0.0.8, port: 80"
		pool   = plain + ", pool: big"

		model = policy.KindModel
		tier  = policy.KindTier
	)
	gateway := func(endpoints string) string {
		return "kind: QuotaGateway\nmetadata: {name: main, namespace: default}\nspec:\n" +
			"  listeners: [{name: http, port: 8080, protocol: HTTP}]\n" +
			"  backends: [{name: b, endpoints: [{address: " + endpoints + "}]}]\n" +
			"  routes: [{name: r, type: Backend, backendName: b, protocol: OpaqueBody, resource: chat, matches: [{path: {type: Exact, value: /r}}]}]\n" +
			"  identity: {sources: [{header: x-api-key}]}"
	}
	note := func(kind, name, field, message string) policy.Note {
		return policy.Note{Object: policy.Object{Kind: kind, Name: policy.Name{Name: name}}, Field: field, Message: message}
	}
	for name, tc := range map[string]struct {
		documents []string
		want      []policy.Note
	}{
		"nothing":                   {[]string{gateway(plain), mayNot}, nil},
		"all has its counterpart":   {[]string{gateway(pool), may, pooled, queue + "}}"}, nil},
		"somebody who may not wait": {[]string{gateway(plain), may, mayNot, queue + "}}"}, nil},
		"a pool without endpoints": {[]string{gateway(plain), pooled}, []policy.Note{
			note(tier, "pooled", "spec.backendPool", "No endpoint of any backend has pool: big, so endpoints without a pool serve this tier."),
		}},
		"a pool without a tier": {[]string{gateway(pool)}, []policy.Note{{
			Object:  policy.Object{Kind: policy.KindGateway, Name: policy.Name{Namespace: "default", Name: "main"}},
			Field:   "spec.backends[name=b].endpoints[address=10.0.0.8,port=80].pool",
			Message: "No RateLimitTier has backendPool: big, so this endpoint serves nobody.",
		}}},
		"nothing to wait for": {[]string{may}, []policy.Note{
			note(tier, "may", "spec.queue", "No ModelLimit has capacity.queue, so there is nothing to wait for."),
		}},
		"nobody who may wait": {[]string{mayNot, queue + "}}"}, []policy.Note{
			note(model, "m", "spec.capacity.queue", "No RateLimitTier has queue: {mode: Wait}, so nobody waits: what is beyond the capacity is answered 503 at once."),
		}},
		"a share of a tier that may not wait": {[]string{may, mayNot, queue + shares + "}}"}, []policy.Note{
			note(model, "m", "spec.capacity.reserved[tierName=may-not]",
				"Shares are for requests that wait, and RateLimitTier may-not has no queue: {mode: Wait}, so this one has no effect."),
		}},
		"shares without a queue": {[]string{mayNot, full, "kind: RateLimitTier\nmetadata: {name: may}"}, []policy.Note{
			note(model, "m", "spec.capacity.reserved[tierName=may]", "Shares are for requests that wait, and none does without capacity.queue, so this one has no effect."),
			note(model, "m", "spec.capacity.reserved[tierName=may-not]", "Shares are for requests that wait, and none does without capacity.queue, so this one has no effect."),
		}},
		"what is not accepted anyway": {[]string{mayNot, full}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var in policy.Input
			for _, document := range tc.documents {
				addDocument(t, &in, []byte(document))
			}
			_, verdicts := policy.Compile(in)
			if diff := cmp.Diff(tc.want, policy.Idle(&in, verdicts), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("notes (-want +got):\n%s\nverdicts: %+v", diff, verdicts)
			}
		})
	}
}
