package command_test

import (
	"testing"

	"github.com/tierkeeper/tierkeeper/policy"
)

const modelSizeTiers = "../config/samples/model-size-tiers"

// What the document says of text models: requests and tokens a minute by size, for everybody and for partners.
var sizes = []struct {
	class                          string
	models                         []string
	requests, tokens               int64
	partnerRequests, partnerTokens int64
}{
	{"XS", []string{"qwen3-4b", "llama-3.2-3b"}, 500, 1_000_000, 500, 2_000_000},
	{"S", []string{"mistral-31-24b", "venice-uncensored"}, 75, 750_000, 150, 1_500_000},
	{"M", []string{"zai-org-glm-5", "qwen3-next-80b", "google-gemma-3-27b-it"}, 50, 750_000, 100, 1_500_000},
	{
		"L",
		[]string{
			"qwen3-235b-a22b-instruct-2507", "qwen3-235b-a22b-thinking-2507", "deepseek-ai-DeepSeek-R1", "grok-41-fast", "kimi-k2-thinking",
			"gemini-3-pro-preview", "hermes-3-llama-3.1-405b", "qwen3-coder-480b-a35b-instruct", "zai-org-glm-4.7", "openai-gpt-oss-120b",
		},
		20, 500_000, 60, 1_000_000,
	},
}

// What it says of all else: requests a minute. It names no limits of video for partners, who get those of everybody.
var types = []struct {
	resource          string
	requests, partner int64
}{
	{"images", 20, 60},
	{"audio", 60, 120},
	{"embeddings", 500, 500},
	{"video-queue", 40, 40},
	{"video-retrieve", 120, 120},
}

// ofClass is what a tier says of each model of a class.
func ofClass(tier, class string, requests, tokens int64) []limit {
	return []limit{
		scoped("KeyModel", rate("RateLimitTier", tier, "spec.classes[class="+class+"].limits", "Requests", "Minute", requests)),
		scoped("KeyModel", rate("RateLimitTier", tier, "spec.classes[class="+class+"].limits", "Tokens", "Minute", tokens)),
	}
}

func ofResource(tier, resource string, requests int64) []limit {
	return []limit{scoped("KeyResource", rate("RateLimitTier", tier, "spec.resources[resource="+resource+"].limits", "Requests", "Minute", requests))}
}

func TestModelSizeTiersHoldTheNumbersOfEachSize(t *testing.T) {
	t.Parallel()
	for _, size := range sizes {
		for _, model := range size.models {
			checkModel(t, modelSizeTiers, "default/standard", model, "chat", ofClass("standard", size.class, size.requests, size.tokens))
			checkModel(t, modelSizeTiers, "default/partner", model, "chat", ofClass("partner", size.class, size.partnerRequests, size.partnerTokens))
		}
	}
}

func TestModelSizeTiersHoldTheNumbersOfWhatIsNotText(t *testing.T) {
	t.Parallel()
	for _, kind := range types {
		for tier, most := range map[string]int64{"standard": kind.requests, "partner": kind.partner} {
			want := effective{Key: "default/" + tier, Resource: kind.resource, Limits: ofResource(tier, kind.resource, most)}
			checkEffective(t, want, "-f", modelSizeTiers, "--key", "default/"+tier, "--resource", kind.resource)
		}
	}
}

func TestAPartnersAgreementChangesWhatItNamesAndNoMore(t *testing.T) {
	t.Parallel()
	const key = "default/partner-acme"
	own := func(scope, path, metric string, most int64) limit {
		return scoped(scope, ownRate("ApiKeyQuota", "partner-acme", path, metric, "Minute", most))
	}
	tokens := own("KeyModel", "spec.classes[class=L].limits", "Tokens", 3_000_000)
	large := ofClass("partner", "L", 60, 1_000_000)
	checkModel(t, modelSizeTiers, key, "kimi-k2-thinking", "chat", []limit{large[0], tokens})
	checkModel(t, modelSizeTiers, key, "zai-org-glm-4.7", "chat", []limit{own("KeyModel", "spec.models[model=zai-org-glm-4.7].limits", "Requests", 120), tokens})
	checkModel(t, modelSizeTiers, key, "qwen3-4b", "chat", ofClass("partner", "XS", 500, 2_000_000))

	images := own("KeyResource", "spec.resources[resource=images].limits", "Requests", 200)
	checkEffective(t, effective{Key: key, Resource: "images", Limits: []limit{images}}, "-f", modelSizeTiers, "--key", key, "--resource", "images")
	checkEffective(t, effective{Key: key, Resource: "audio", Limits: ofResource("partner", "audio", 120)}, "-f", modelSizeTiers, "--key", key, "--resource", "audio")
}

func TestModelSizeTiersTellResetsInTwoForms(t *testing.T) {
	t.Parallel()
	checkGateway(t, modelSizeTiers, policy.ResetUnixSeconds, policy.ResetDeltaSeconds)
}
