package kube_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

// TestWhatIsBrokenCostsOnlyItself breaks one object among many, and one gateway among two.
func TestWhatIsBrokenCostsOnlyItself(t *testing.T) {
	t.Parallel()
	s, _, service := running(t)
	inNamespaces(t, s, "team", "edge")
	port := freePort(t)
	apply(t, s, gateway("edge", "main", port, "allowedKeys: {namespaces: {from: All}}"))
	startEnvoy(t, s, "edge/main", "envoy-0", service)
	t.Run("one of a hundred objects", func(t *testing.T) { oneOfAHundred(t, s, port) })
	t.Run("one of two gateways", func(t *testing.T) { oneOfTwoGateways(t, s, port, service) })
}

func oneOfAHundred(t *testing.T, s *stack.Stack, port int) {
	const bad = 50
	all := []string{tier("two-a-day", 2)}
	for i := range 99 {
		more := ""
		if i == bad {
			more = perDay(3)
		}
		all = append(all, quota("team", nth(i), "two-a-day", more))
	}
	apply(t, s, strings.Join(all, ""))
	refused := awaitCondition(t, s, ofKind(policy.KindQuota), "team", nth(bad), v1alpha1.ConditionAccepted, v1alpha1.ReasonOverrideNotPermitted)
	if field := "spec.limits.rates[metric=Requests,per=Day].max: "; !strings.HasPrefix(refused.Message, field) {
		t.Errorf("the message does not begin with %q: %s", field, refused.Message)
	}
	awaitReady(t, s, &v1alpha1.RateLimitTier{}, "", "two-a-day")
	for i := range 99 {
		if i != bad {
			awaitReady(t, s, &v1alpha1.ApiKeyQuota{}, "team", nth(i))
		}
	}
	awaitReady(t, s, &v1alpha1.QuotaGateway{}, "edge", "main")
	awaitStatus(t, port, "sk-unknown", http.StatusUnauthorized)
	for i := 0; i < 99; i += 14 {
		answers(t, port, "sk-"+nth(i), http.StatusOK, http.StatusOK, http.StatusTooManyRequests)
	}
	answers(t, port, "sk-"+nth(bad), http.StatusUnauthorized)
}

func nth(i int) string { return fmt.Sprintf("app-%02d", i) }

// oneOfTwoGateways gives a gateway a port that Envoy cannot have, and then another.
func oneOfTwoGateways(t *testing.T, s *stack.Stack, port int, service *stack.Process) {
	const kind = policy.KindGateway
	apply(t, s, tier("plenty", 1000)+quota("team", "caller", "plenty"))
	awaitReady(t, s, &v1alpha1.ApiKeyQuota{}, "team", "caller")
	before := condition(t, s, kind, "edge", "main", v1alpha1.ConditionReady)
	apply(t, s, gateway("edge", "other", occupiedPort(t), "allowedKeys: {namespaces: {from: All}}"))
	startEnvoy(t, s, "edge/other", "envoy-1", service)
	rejected := awaitCondition(t, s, ofKind(kind), "edge", "other", v1alpha1.ConditionProgrammed, v1alpha1.ReasonEnvoyRejected)
	for _, words := range []string{"envoy-1: ", "edge/other/http", "Address already in use"} {
		if !strings.Contains(rejected.Message, words) {
			t.Errorf("the message does not say %q: %s", words, rejected.Message)
		}
	}
	awaitStatus(t, port, "sk-caller", http.StatusOK)
	if after := condition(t, s, kind, "edge", "main", v1alpha1.ConditionReady); after != before {
		t.Errorf("a gateway was broken, and another is Ready no more: %+v, was %+v", after, before)
	}
	free := freePort(t)
	apply(t, s, gateway("edge", "other", free, "allowedKeys: {namespaces: {from: All}}"))
	awaitReady(t, s, &v1alpha1.QuotaGateway{}, "edge", "other")
	awaitStatus(t, free, "sk-caller", http.StatusOK)
}
