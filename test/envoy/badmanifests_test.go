package envoy_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// badManifests has one file for each mistake, and what must be told of it.
var badManifests = map[string]struct{ content, told string }{
	"malformed.yaml": {
		"kind: RateLimitTier\nmetadata: {name: x\n",
		`malformed\.yaml:\d+: .*YAML`,
	},
	"unknown-field.yaml": {
		strings.Replace(tier("unknown-field", "{metric: Requests, per: Day, max: 5}"), "spec:", "spec:\n  colour: red", 1),
		`unknown-field\.yaml:5: RateLimitTier unknown-field: spec\.colour: `,
	},
	"negative.yaml": {
		tier("negative", "{metric: Requests, per: Day, max: -5}"),
		`negative\.yaml:7: RateLimitTier negative: spec\.limits\.rates\[\w+\]\.max: `,
	},
	"no-number.yaml": {
		tier("no-number", "{metric: Requests, per: Day, max: many}"),
		`no-number\.yaml:7: RateLimitTier no-number: spec\.limits\.rates\[\w+\]\.max: `,
	},
	"no-tier.yaml": {
		holder("no-tier", "nowhere", "key-no-tier"),
		`no-tier\.yaml:\d+: ApiKeyQuota default/no-tier: spec\.tierRef\.name: TierNotFound: .*nowhere`,
	},
	"one-key-twice.yaml": {
		holder("thief", "good", keyGood),
		`one-key-twice\.yaml:\d+: ApiKeyQuota default/thief: spec\.keys\S*: KeyClaimed: .*default/good`,
	},
	"no-secret.yaml": {
		`{apiVersion: tierkeeper.io/v1alpha1, kind: ApiKeyQuota, metadata: {name: no-secret}, spec: {tierRef: {name: good}, keys: [{name: a, secretKeyRef: {name: gone, key: token}}]}}`,
		`no-secret\.yaml:\d+: ApiKeyQuota default/no-secret: spec\.keys\S*: SecretNotFound: `,
	},
	"unknown-kind.yaml": {
		`{apiVersion: tierkeeper.io/v1alpha1, kind: RateLimitTear, metadata: {name: typo}}`,
		`unknown-kind\.yaml:1: .*RateLimitTear`,
	},
}

func TestBadManifestsCostOnlyThemselves(t *testing.T) {
	t.Parallel()
	files := manifests(gateway, tier("good", "{metric: Requests, per: Day, max: 7}"), holder("good", "good", keyGood))
	for name, bad := range badManifests {
		files[name] = bad.content
	}
	s := start(t, files)
	told := s.Stdout.String()
	for name, bad := range badManifests {
		if !regexp.MustCompile(`(?m)^  REJECTED  \S*/` + bad.told).MatchString(told) {
			t.Errorf("%s: nothing like %q is told", name, bad.told)
		}
	}
	for _, object := range []string{"RateLimitTier good", "ApiKeyQuota default/good", "QuotaGateway default/main"} {
		if !regexp.MustCompile(`(?m)^  accepted  \S*/all\.yaml:\d+  ` + object + `$`).MatchString(told) {
			t.Errorf("%s is not told to be accepted", object)
		}
	}
	if a := s.pass(t, chat(keyGood, prompt{})); a.header.Get("X-RateLimit-Limit") != "7" {
		t.Errorf("the limit is %q, want 7", a.header.Get("X-RateLimit-Limit"))
	}
	// A quota that was never accepted is denied, and its key is not just unknown.
	if a := s.send(t, chat("key-no-tier", prompt{})); a.status != http.StatusUnauthorized || !strings.Contains(a.body, `"api_key_pending"`) {
		t.Errorf("the key of a quota that is not accepted got %d: %s", a.status, a.body)
	}
}
