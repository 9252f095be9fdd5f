package kube_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/config/crd"
)

const claims = "../../manifest/testdata/claims"

// TestTheAPIServerHoldsToEveryClaim asks a real API server about the objects by which package manifest is held to its rules: the
// good ones must be taken and the others refused, and every rule of our definitions must be seen to tell the user its message.
func TestTheAPIServerHoldsToEveryClaim(t *testing.T) {
	t.Parallel()
	c := connect(t)
	if err := c.Create(t.Context(), parse(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-a}")); err != nil {
		t.Fatal(err)
	}
	rules := definitions(t)
	told := map[string]bool{}
	files, err := filepath.Glob(claims + "/*.yaml")
	if err != nil || len(files) < 30 {
		t.Fatalf("finding claims: %d files, %v", len(files), err)
	}
	for _, file := range files {
		if filepath.Base(file) == "keys-of-yaml-stand-once.yaml" {
			continue // What reads YAML refuses a key that stands twice; to the API server goes an object.
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			for _, text := range documents(t, file) {
				object := parse(t, text)
				if object == nil {
					continue // What is no YAML gets to no API server.
				}
				err := c.Create(t.Context(), object, client.DryRunAll)
				if apierrors.IsNotFound(err) && len(validation.IsDNS1123Label(object.GetNamespace())) > 0 {
					continue // In a namespace that no cluster can have, nothing is created.
				}
				if strings.HasPrefix(object.GetName(), "good") {
					if err != nil {
						t.Errorf("%s %s is refused: %v", object.GetKind(), object.GetName(), err)
					}
					continue
				}
				if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
					t.Errorf("%s %s is not refused as invalid: %v", object.GetKind(), object.GetName(), err)
					continue
				}
				for _, message := range wanted(text) {
					// A rule's message is ours; what else is wrong with an object, the API server words in its own way.
					if !rules[message] {
						continue
					}
					told[message] = true
					if !strings.Contains(err.Error(), message) {
						t.Errorf("%s %s: the user does not see %q but\n%v", object.GetKind(), object.GetName(), message, err)
					}
				}
			}
		})
	}
	told["user is immutable"] = true // See TestTheUserOfAQuotaStays.
	for message := range rules {
		if !told[message] {
			t.Errorf("no object was refused with %q", message)
		}
	}
}

// definitions lists the messages of all our rules.
func definitions(t *testing.T) map[string]bool {
	t.Helper()
	rules := map[string]bool{}
	entries, err := crd.Files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := crd.Files.ReadFile(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		var definition map[string]any
		if err := yaml.Unmarshal(content, &definition); err != nil {
			t.Fatal(err)
		}
		collectRules(definition, rules)
	}
	return rules
}

func collectRules(node any, rules map[string]bool) {
	switch node := node.(type) {
	case map[string]any:
		for key, child := range node {
			if key != "x-kubernetes-validations" {
				collectRules(child, rules)
				continue
			}
			for _, rule := range child.([]any) {
				rules[rule.(map[string]any)["message"].(string)] = true
			}
		}
	case []any:
		for _, child := range node {
			collectRules(child, rules)
		}
	}
}

func documents(t *testing.T, file string) (all []string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(content), "\n---\n")
}

// parse is nil for what is no object.
func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	err := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096).Decode(&object.Object)
	if errors.Is(err, io.EOF) || err != nil || object.GetKind() == "" {
		return nil
	}
	if object.GetNamespace() == "" && object.GetKind() != "RateLimitTier" && object.GetKind() != "ModelLimit" {
		object.SetNamespace("default")
	}
	return object
}

// wanted lists the messages of a document's comments "# want FIELD | MESSAGE".
func wanted(text string) (messages []string) {
	for line := range strings.Lines(text) {
		if _, claim, ok := strings.Cut(line, "# want "); ok {
			_, message, _ := strings.Cut(strings.TrimSpace(claim), " | ")
			messages = append(messages, strings.TrimSuffix(message, "."))
		}
	}
	return messages
}

// TestEverySampleIsTaken creates what a newcomer would apply.
func TestEverySampleIsTaken(t *testing.T) {
	t.Parallel()
	c := connect(t)
	files, err := filepath.Glob("../../config/samples/*/*.yaml")
	if err != nil || len(files) < 15 {
		t.Fatalf("finding samples: %d files, %v", len(files), err)
	}
	for _, file := range files {
		for _, text := range documents(t, file) {
			if object := parse(t, text); object != nil {
				err := c.Create(t.Context(), object, client.DryRunAll)
				if apierrors.IsAlreadyExists(err) && object.GetKind() == "Namespace" {
					continue // Every cluster has the namespace default.
				}
				if err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
	}
}

// TestTheUserOfAQuotaStays edits what must not be edited.
func TestTheUserOfAQuotaStays(t *testing.T) {
	t.Parallel()
	c := connect(t)
	quota := parse(t, "apiVersion: tierkeeper.io/v1alpha1\nkind: UserQuota\nmetadata: {name: stays}\nspec: {user: ann, limits: {concurrency: {max: 1}}}")
	if err := c.Create(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	if err := unstructured.SetNestedField(quota.Object, "bob", "spec", "user"); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(t.Context(), quota); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "user is immutable") {
		t.Errorf("got %v, want that the user is immutable", err)
	}
}
