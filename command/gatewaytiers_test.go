package command_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

const gatewayTiers = "../config/samples/gateway-tiers"

// The plans of the document: requests and tokens a minute, requests under way, and requests a day.
var gatewayPlans = map[string][]limit{
	"default/free": {
		keyLimit("Requests", "Minute", 60, "free"),
		paid(keyLimit("Requests", "Day", 5_000, "free")),
		keyLimit("Tokens", "Minute", 40_000, "free"),
		keyLimit("ConcurrentRequests", "", 5, "free"),
	},
	"default/pro": {
		keyLimit("Requests", "Minute", 600, "pro"),
		keyLimit("Tokens", "Minute", 400_000, "pro"),
		keyLimit("ConcurrentRequests", "", 20, "pro"),
	},
	"default/enterprise": {},
	"default/custom": { // Custom, as agreed
		scoped("Key", ownRate("ApiKeyQuota", "custom", "spec.limits", "Requests", "Minute", 5_000)),
		scoped("Key", ownRate("ApiKeyQuota", "custom", "spec.limits", "Tokens", "Minute", 5_000_000)),
	},
}

// gatewayWaits is how long each plan's requests wait for GPT-4 when it is at its capacity: the priority queue of the document,
// and 503 for those who are not in it.
var gatewayWaits = map[string]int64{"default/pro": 20, "default/enterprise": 60, "default/custom": 60}

// Its limits of models, which all callers share: requests and tokens a minute. 0 is none.
var gatewayModels = []struct {
	group, resource  string
	models           []string
	requests, tokens int64
	alsoIn           string
}{
	{"gpt-4-family", "chat", []string{"gpt-4-turbo", "gpt-4-turbo-2024-04-09", "gpt-4-1106-preview", "gpt-4o", "gpt-4o-mini", "gpt-4.1"}, 500, 300_000, ""},
	{"gpt-4", "chat", []string{"gpt-4", "gpt-4-0613", "gpt-4-32k"}, 200, 40_000, "gpt-4-family"},
	{"gpt-3.5-turbo", "chat", []string{"gpt-3.5-turbo", "gpt-3.5-turbo-0125"}, 3_500, 350_000, ""},
	{"claude-3-5-sonnet", "chat", []string{"claude-3-5-sonnet-20241022", "claude-3-5-sonnet-latest"}, 1_000, 400_000, ""},
	{"claude-3-opus", "chat", []string{"claude-3-opus-20240229", "claude-3-opus-latest"}, 200, 40_000, ""},
	{"gemini-1.5-pro", "chat", []string{"gemini-1.5-pro", "gemini-1.5-pro-002"}, 360, 4_000_000, ""},
	{"dall-e-3", "images", []string{"dall-e-3"}, 50, 0, ""},
	{"embeddings", "embeddings", []string{"text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"}, 3_000, 1_000_000, ""},
}

func paid(l limit) limit {
	l.Exceeded = "PaymentRequired"
	return l
}

func sharedBy(group string, requests, tokens int64) []limit {
	limits := []limit{scoped("ModelShared", rate("ModelLimit", group, "spec.shared", "Requests", "Minute", requests))}
	if tokens > 0 {
		limits = append(limits, scoped("ModelShared", rate("ModelLimit", group, "spec.shared", "Tokens", "Minute", tokens)))
	}
	return limits
}

func TestGatewayTiersHoldTheNumbersOfEachPlan(t *testing.T) {
	t.Parallel()
	for key, limits := range gatewayPlans {
		checkModel(t, gatewayTiers, key, "", "", limits)
		checkModel(t, gatewayTiers, key, "a-model-that-nobody-names", "", limits)
	}
}

// Whatever the plan, the limits of the model hold besides, and GPT-4 counts in its family too.
func TestGatewayTiersHoldTheNumbersOfEachModel(t *testing.T) {
	t.Parallel()
	for _, row := range gatewayModels {
		shared, above := sharedBy(row.group, row.requests, row.tokens), []limit(nil)
		if row.alsoIn != "" {
			above = sharedBy(row.alsoIn, 500, 300_000)
		}
		for _, model := range row.models {
			for key, limits := range gatewayPlans {
				var capacity []limit
				if row.group == "gpt-4" {
					l := rate("ModelLimit", "gpt-4", "spec", "ConcurrentRequests", "", 50)
					l.Exceeded, l.MaxWaitSeconds, l.Origin.Field = "ServiceUnavailable", gatewayWaits[key], "spec.capacity.concurrentRequests"
					capacity = []limit{scoped("ModelShared", l)}
				}
				checkModel(t, gatewayTiers, key, model, row.resource, slices.Concat(limits, shared, capacity, above))
			}
		}
	}
}

func TestAKeysLimitOfOneModelHoldsForNoOther(t *testing.T) {
	t.Parallel()
	own := scoped("KeyModel", ownRate("ApiKeyQuota", "few-opus", "spec.models[model=claude-3-opus-*].limits", "Requests", "Minute", 20))
	checkModel(t, gatewayTiers, "default/few-opus", "claude-3-opus-20240229", "chat",
		slices.Concat(gatewayPlans["default/pro"], []limit{own}, sharedBy("claude-3-opus", 200, 40_000)))
	checkModel(t, gatewayTiers, "default/few-opus", "gpt-3.5-turbo", "chat",
		slices.Concat(gatewayPlans["default/pro"], sharedBy("gpt-3.5-turbo", 3_500, 350_000)))
}

func TestAUsersLimitsHoldForEachOfItsKeys(t *testing.T) {
	t.Parallel()
	of := func(metric, per string, most int64) limit {
		return scoped("User", ownRate("UserQuota", "alice", "spec.limits", metric, per, most))
	}
	alice := []limit{of("Requests", "Minute", 800), of("Tokens", "Day", 50_000_000), of("ConcurrentRequests", "", 30)}
	for _, key := range []string{"default/alice-laptop", "default/alice-server"} {
		checkModel(t, gatewayTiers, key, "", "", slices.Concat(gatewayPlans["default/pro"], alice))
	}
}

func TestGatewayTiersTellResetsInSecondsLeft(t *testing.T) {
	t.Parallel()
	checkGateway(t, gatewayTiers, policy.ResetDeltaSeconds, policy.ResetDeltaSeconds)
}

// The listener that stands there as a comment lacks nothing but its certificate.
func TestTheHTTPSListenerOfGatewayTiersLacksOnlyItsCertificate(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join(gatewayTiers, "gateway.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	on := regexp.MustCompile(`(?m)^  # (- name: https$| {2,}\w+: )`).ReplaceAll(content, []byte("  $1"))
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(file, on, 0o600); err != nil { //nolint:gosec // In a directory of the test.
		t.Fatal(err)
	}
	result := new(manifest.Loader).Load(file)
	if len(result.Problems) > 0 {
		t.Errorf("want no problem, got %v", result.Problems)
	}
	_, verdicts := policy.Compile(result.Input)
	if len(verdicts) != 1 || len(verdicts[0].Problems) != 1 || verdicts[0].Problems[0].Field != "spec.listeners[name=https].tls.certificateRefs[name=api-example-com].name" {
		t.Errorf("want one problem, with the certificate, got %+v", verdicts)
	}
}
