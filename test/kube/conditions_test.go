package kube_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/test/kube/stack"
)

// produced are the reasons that were seen in the status of real objects.
type produced map[string]bool

// see waits for a condition of an object, and returns its message.
func (p produced) see(t *testing.T, s *stack.Stack, kind, namespace, name, which, reason string) string {
	t.Helper()
	c := awaitCondition(t, s, ofKind(kind), namespace, name, which, reason)
	p[reason] = true
	return c.Message
}

// says is see, and holds the message against the words that a user needs.
func (p produced) says(t *testing.T, s *stack.Stack, kind, namespace, name, which, reason, words string) {
	t.Helper()
	if message := p.see(t, s, kind, namespace, name, which, reason); !strings.Contains(message, words) {
		t.Errorf("%s %s is %s=%s: the message does not say %q but %q", kind, name, which, reason, words, message)
	}
}

// TestEveryReasonIsProduced breaks objects in every way that has a name, and the data plane with them.
func TestEveryReasonIsProduced(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	// Whoever is not connected is given up after two lease durations: no sooner than a busy machine connects again.
	operator := startOperator(t, s, "operator-0", "--lease-duration", "8s")
	service := startService(t, s, "ratelimit-0")
	inNamespaces(t, s, "team", "edge")
	taken, free := occupiedPort(t), freePort(t)
	apply(t, s, refusedObjects(free)+"\n---\n"+gateway("edge", "taken", taken)+"\n---\n"+gateway("edge", "nobody", freePort(t)))
	startEnvoy(t, s, "edge/main", "envoy-0", service)
	startEnvoy(t, s, "edge/taken", "envoy-1", service)
	seen := produced{}
	t.Run("Accepted", func(t *testing.T) { produceAccepted(t, s, seen) })
	t.Run("Programmed", func(t *testing.T) { produceProgrammed(t, s, seen, service) })
	t.Run("times", func(t *testing.T) { transitionsAreTimed(t, s) })
	t.Run("nothing is written or told again", func(t *testing.T) { restartIsQuiet(t, s, operator) })
	t.Run("Exhausted and ApproachingLimit", func(t *testing.T) { produceUsed(t, s, seen, free) })
	t.Run("all", func(t *testing.T) { checkReasons(t, seen) })
}

// occupiedPort is a port of loopback that an Envoy cannot bind to.
func occupiedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// refusedObjects are objects that are refused for one reason each, those that they are refused for, and a gateway that is in order.
func refusedObjects(port int) string {
	return tier("free", 100) + tier("internal", 100, "allowedNamespaces: {from: None}") +
		tier("unselectable", 100, "allowedNamespaces: {from: Selector, selector: {matchExpressions: [{key: plan, operator: Near, values: [paid]}]}}") +
		tier("crowded", 100, "resources: [{resource: chat, limits: {rates: ["+everyRate()+"]}}]", `models: [{model: "gpt-*", limits: {rates: [`+everyRate()+"]}}]") +
		secret("team", "empty", " ") + secret("team", "unsendable", "two words") + `
apiVersion: v1
kind: Secret
metadata: {namespace: team, name: unlabelled}
stringData: {token: sk-unlabelled}
---
` + quota("team", "in-order", "free") +
		quota("team", "no-tier", "nowhere") + quota("team", "no-permission", "internal") + quota("team", "too-high", "free", perDay(101)) +
		quota("team", "too-many", "crowded") +
		quotaOf("team", "no-secret", "free", fromSecret("nowhere")) + quotaOf("team", "no-label", "free", fromSecret("unlabelled")) +
		quotaOf("team", "empty-key", "free", fromSecret("empty")) + quotaOf("team", "invalid-key", "free", fromSecret("unsendable")) +
		quotaOf("team", "key-of-another", "free", "{name: stolen, digest: "+strconv.Quote(digest("sk-in-order"))+"}") +
		userQuota("team", "ann") + userQuota("team", "ann-again") +
		modelLimit("gpt", `models: ["gpt-4o"]`, "capacity: {concurrentRequests: 9}") +
		modelLimit("gpt-again", `models: ["gpt-4o"]`, "shared: {concurrency: {max: 1}}") +
		modelLimit("orphan", `models: ["o1"]`, "shared: {concurrency: {max: 1}}", "parentRef: {name: nowhere}") +
		modelLimit("waits-twice", `models: ["gpt-4o-mini"]`, "capacity: {concurrentRequests: 2}", "parentRef: {name: gpt}") +
		gateway("edge", "main", port, "allowedKeys: {namespaces: {from: All}}") + "\n---\n" +
		strings.Replace(gateway("edge", "no-route", port), "  routes:\n", "  routes:\n"+
			"  - {name: first, type: Backend, backendName: demo, protocol: OpenAIChatCompletions, resource: chat, matches: [{method: POST, path: {type: Exact, value: /v1/chat/completions}}]}\n", 1) + "\n---\n" +
		strings.Replace(gateway("edge", "no-certificate", port), "protocol: HTTP}]", "protocol: HTTPS, tls: {certificateRefs: [{name: opaque}]}}]", 1) + "\n---\n" +
		secret("edge", "opaque", "no certificate")
}

// everyRate is YAML of a rate for every metric and window.
func everyRate() string {
	var all []string
	for _, metric := range []string{"Requests", "Tokens", "InputTokens", "OutputTokens"} {
		for _, per := range []string{"Second", "Minute", "Hour", "Day", "Month"} {
			all = append(all, "{metric: "+metric+", per: "+per+", max: 9}")
		}
	}
	return strings.Join(all, ", ")
}

// userQuota is one whose name begins with that of its user.
func userQuota(namespace, name string) string {
	user, _, _ := strings.Cut(name, "-")
	return "apiVersion: tierkeeper.io/v1alpha1\nkind: UserQuota\nmetadata: {namespace: " + namespace + ", name: " + name + "}\n" +
		"spec:\n  user: " + user + "\n  limits: {concurrency: {max: 9}}\n---\n"
}

func modelLimit(name string, spec ...string) string {
	return "apiVersion: tierkeeper.io/v1alpha1\nkind: ModelLimit\nmetadata: {name: " + name + "}\nspec:\n  " + strings.Join(spec, "\n  ") + "\n---\n"
}

// produceAccepted expects each of refusedObjects to be refused for its reason, with a message that names the field.
func produceAccepted(t *testing.T, s *stack.Stack, seen produced) {
	tests := []struct{ kind, namespace, name, reason, field string }{
		{policy.KindQuota, "team", "no-tier", v1alpha1.ReasonTierNotFound, "spec.tierRef.name: "},
		{policy.KindQuota, "team", "no-permission", v1alpha1.ReasonTierNotPermitted, "spec.tierRef.name: "},
		{policy.KindQuota, "team", "too-high", v1alpha1.ReasonOverrideNotPermitted, "spec.limits.rates[metric=Requests,per=Day].max: "},
		{policy.KindQuota, "team", "too-many", v1alpha1.ReasonTooManyLimits, "spec: "},
		{policy.KindQuota, "team", "no-secret", v1alpha1.ReasonSecretNotFound, "spec.keys[name=main].secretKeyRef.name: "},
		{policy.KindQuota, "team", "no-label", v1alpha1.ReasonSecretNotLabelled, "spec.keys[name=main].secretKeyRef.name: "},
		{policy.KindQuota, "team", "empty-key", v1alpha1.ReasonKeyEmpty, "spec.keys[name=main].secretKeyRef.key: "},
		{policy.KindQuota, "team", "invalid-key", v1alpha1.ReasonKeyInvalid, "spec.keys[name=main].secretKeyRef.key: "},
		{policy.KindQuota, "team", "key-of-another", v1alpha1.ReasonKeyClaimed, "spec.keys[name=stolen]: "},
		{policy.KindUser, "team", "ann-again", v1alpha1.ReasonUserClaimed, "spec.user: "},
		{policy.KindModel, "", "gpt-again", v1alpha1.ReasonModelConflict, "spec.models[gpt-4o]: "},
		{policy.KindModel, "", "orphan", v1alpha1.ReasonParentNotFound, "spec.parentRef.name: "},
		{policy.KindModel, "", "waits-twice", v1alpha1.ReasonCapacityConflict, "spec.capacity: "},
		{policy.KindTier, "", "unselectable", v1alpha1.ReasonInvalidSelector, "spec.allowedNamespaces.selector: "},
		{policy.KindGateway, "edge", "no-route", v1alpha1.ReasonInvalidRoute, "spec.routes[name=chat].matches[0]: "},
		{policy.KindGateway, "edge", "no-certificate", v1alpha1.ReasonCertificateInvalid, "spec.listeners[name=http].tls.certificateRefs[name=opaque].name: "},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			seen.says(t, s, tc.kind, tc.namespace, tc.name, v1alpha1.ConditionAccepted, tc.reason, tc.field)
			seen.says(t, s, tc.kind, tc.namespace, tc.name, v1alpha1.ConditionReady, v1alpha1.ReasonNotAccepted, tc.field)
			seen.see(t, s, tc.kind, tc.namespace, tc.name, v1alpha1.ConditionProgrammed, v1alpha1.ReasonNotAccepted)
			told := tc.kind + " " + tc.namespace + "/" + tc.name + " Warning " + tc.reason
			await(t, "an Event tells of "+tc.name, func() error { return recorded(t, s, told) })
		})
	}
	seen.see(t, s, policy.KindQuota, "team", "in-order", v1alpha1.ConditionAccepted, v1alpha1.ReasonAccepted)
}

// produceProgrammed breaks the data plane, and what it is told.
func produceProgrammed(t *testing.T, s *stack.Stack, seen produced, service *stack.Process) {
	const programmed, ready = v1alpha1.ConditionProgrammed, v1alpha1.ConditionReady
	for _, o := range []policy.Object{
		{Kind: policy.KindTier, Name: policy.Name{Name: "free"}},
		{Kind: policy.KindModel, Name: policy.Name{Name: "gpt"}},
		{Kind: policy.KindQuota, Name: policy.Name{Namespace: "team", Name: "in-order"}},
		{Kind: policy.KindUser, Name: policy.Name{Namespace: "team", Name: "ann"}},
		{Kind: policy.KindGateway, Name: policy.Name{Namespace: "edge", Name: "main"}},
	} {
		seen.see(t, s, o.Kind, o.Namespace, o.Name.Name, programmed, v1alpha1.ReasonProgrammed)
		seen.see(t, s, o.Kind, o.Namespace, o.Name.Name, ready, v1alpha1.ReasonReady)
	}
	seen.says(t, s, policy.KindGateway, "edge", "taken", programmed, v1alpha1.ReasonEnvoyRejected, "Address already in use")
	seen.says(t, s, policy.KindGateway, "edge", "taken", ready, v1alpha1.ReasonNotProgrammed, "Address already in use")
	seen.says(t, s, policy.KindGateway, "edge", "nobody", programmed, v1alpha1.ReasonNoDataPlane, "Envoys")
	apply(t, s, quota("team", "waits", "late"))
	seen.see(t, s, policy.KindQuota, "team", "waits", programmed, v1alpha1.ReasonNotAccepted)
	if err := service.Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = service.Resume() }()
	apply(t, s, quota("team", "in-order", "free", perDay(50))+tier("late", 100))
	seen.see(t, s, policy.KindQuota, "team", "in-order", programmed, v1alpha1.ReasonPending)
	seen.see(t, s, policy.KindQuota, "team", "waits", programmed, v1alpha1.ReasonPending) // It was not edited, and is accepted now.
	if err := service.Resume(); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, s, &v1alpha1.ApiKeyQuota{}, "team", "in-order")
	awaitReady(t, s, &v1alpha1.ApiKeyQuota{}, "team", "waits")
	leave := refuse(t, s.Front.Address(), "old-service", "ApiKeyQuota/team/in-order", "it sets a field that I do not know")
	seen.says(t, s, policy.KindQuota, "team", "in-order", programmed, v1alpha1.ReasonServiceRejected, "old-service: it sets a field that I do not know")
	if c := condition(t, s, policy.KindUser, "team", "ann", ready); c.Reason != v1alpha1.ReasonReady {
		t.Errorf("one quota is refused, and the quota of a user is %s: %s", c.Reason, c.Message)
	}
	leave()
	awaitReady(t, s, &v1alpha1.ApiKeyQuota{}, "team", "in-order")
}

// produceUsed uses one quota a little, and another up.
func produceUsed(t *testing.T, s *stack.Stack, seen produced, port int) {
	const kind, approaching, exhausted = policy.KindQuota, v1alpha1.ConditionApproachingLimit, v1alpha1.ConditionExhausted
	apply(t, s, quota("team", "used-a-little", "free")+quota("team", "used-up", "free", perDay(2)))
	awaitReady(t, s, &v1alpha1.ApiKeyQuota{}, "team", "used-a-little")
	awaitReady(t, s, &v1alpha1.ApiKeyQuota{}, "team", "used-up")
	answers(t, port, "sk-used-a-little", http.StatusOK)
	answers(t, port, "sk-used-up", http.StatusOK, http.StatusOK, http.StatusTooManyRequests)
	seen.see(t, s, kind, "team", "used-a-little", approaching, v1alpha1.ReasonBelowThresholds)
	seen.see(t, s, kind, "team", "used-a-little", exhausted, v1alpha1.ReasonWithinLimits)
	seen.says(t, s, kind, "team", "used-up", approaching, v1alpha1.ReasonThresholdReached, "Key/Requests/Day")
	seen.says(t, s, kind, "team", "used-up", exhausted, v1alpha1.ReasonLimitReached, "Key/Requests/Day")
}

// checkReasons asks the source, so that none is forgotten.
func checkReasons(t *testing.T, seen produced) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../api/v1alpha1/conditions.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Reason") {
			return true
		}
		reason, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		all[reason] = true
		if !seen[reason] {
			t.Errorf("no test has produced %s (%s) in the status of an object", spec.Names[0].Name, reason)
		}
		return true
	})
	if len(all) < 20 {
		t.Errorf("conditions.go was read wrongly: it has %d reasons", len(all))
	}
}

// transitionsAreTimed edits objects. A condition whose status stays keeps its time, whatever else of it changes.
func transitionsAreTimed(t *testing.T, s *stack.Stack) {
	const accepted = v1alpha1.ConditionAccepted
	apply(t, s, quota("team", "edited", "free"))
	awaitReady(t, s, &v1alpha1.ApiKeyQuota{}, "team", "edited")
	created := condition(t, s, policy.KindQuota, "team", "edited", accepted)
	laterThan(t, created.LastTransitionTime.Time)
	apply(t, s, quota("team", "edited", "free", perDay(50)))
	lowered := awaitCondition(t, s, ofKind(policy.KindQuota), "team", "edited", accepted, v1alpha1.ReasonAccepted)
	if diff := cmp.Diff(created.LastTransitionTime, lowered.LastTransitionTime); diff != "" {
		t.Errorf("it was accepted and is, and the time of its transition moves (-want +got):\n%s", diff)
	}
	apply(t, s, quota("team", "edited", "free", perDay(200)))
	raised := awaitCondition(t, s, ofKind(policy.KindQuota), "team", "edited", accepted, v1alpha1.ReasonOverrideNotPermitted)
	if !raised.LastTransitionTime.After(created.LastTransitionTime.Time) {
		t.Errorf("it was accepted at %s, and is not since %s", created.LastTransitionTime, raised.LastTransitionTime)
	}
	var now v1alpha1.ApiKeyQuota
	if err := s.Client.Get(t.Context(), key("team", "edited"), &now); err != nil {
		t.Fatal(err)
	}
	if now.Generation != 3 || now.Status.ObservedGeneration != 3 || now.Status.LastAccepted == nil || now.Status.LastAccepted.Generation != 2 {
		t.Errorf("generation %d is refused, and status is of generation %d and goes on by %+v", now.Generation, now.Status.ObservedGeneration, now.Status.LastAccepted)
	}
	laterThan(t, raised.LastTransitionTime.Time)
	apply(t, s, quota("team", "edited", "nowhere"))
	lost := awaitCondition(t, s, ofKind(policy.KindQuota), "team", "edited", accepted, v1alpha1.ReasonTierNotFound)
	if diff := cmp.Diff(raised.LastTransitionTime, lost.LastTransitionTime); diff != "" {
		t.Errorf("it was not accepted and is not, for another reason, and the time of its transition moves (-want +got):\n%s", diff)
	}
}

// laterThan waits until the clock shows a later second: conditions have no finer times.
func laterThan(t *testing.T, then time.Time) {
	t.Helper()
	await(t, "the clock goes on", func() error {
		if now := time.Now(); !now.Truncate(time.Second).After(then) {
			return errNotYet
		}
		return nil
	})
}

// restartIsQuiet starts another operator in the place of the first, and changes what concerns nobody else.
func restartIsQuiet(t *testing.T, s *stack.Stack, operator *stack.Process) {
	settled(t, s, "free")
	told, written := countEvents(t, s), versions(t, s)
	if err := operator.Stop(); err != nil {
		t.Fatal(err)
	}
	startOperator(t, s, "operator-1", "--lease-duration", "8s")
	settled(t, s, "free")
	awaitFleet(t, s, "edge", "main")
	settled(t, s, "free")
	if diff := cmp.Diff(written, versions(t, s)); diff != "" {
		t.Errorf("what another operator has written (-before +after):\n%s", diff)
	}
	apply(t, s, tier("barrier-tier", 7)+userQuota("team", "barrier-user")+quota("team", "barrier-bad", "nowhere"))
	awaitCondition(t, s, ofKind(policy.KindQuota), "team", "barrier-bad", v1alpha1.ConditionAccepted, v1alpha1.ReasonTierNotFound)
	settled(t, s, "free")
	if diff := cmp.Diff(told, countEvents(t, s)); diff != "" {
		t.Errorf("Events that tell of no change (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(written, versions(t, s)); diff != "" {
		t.Errorf("what is written for changes elsewhere (-before +after):\n%s", diff)
	}
}
