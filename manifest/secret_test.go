package manifest_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

const canary = "sk-canary-0123456789"

// secret writes a Secret that may be read, with more lines at its end.
func secret(rest string) string {
	return `apiVersion: v1
kind: Secret
metadata: {name: s, labels: {tierkeeper.io/secret: "true"}}
` + strings.ReplaceAll(rest, "CANARY", canary)
}

func quota(keys string) string {
	return `apiVersion: tierkeeper.io/v1alpha1
kind: ApiKeyQuota
metadata: {name: q}
spec:
  tierRef: {name: free}
` + strings.ReplaceAll(keys, "CANARY", canary)
}

// Each of these is wrong in a way that makes parsers and validators quote what they stumble over.
func TestSecretsAreNeverQuoted(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ content, want string }{
		"unknown anchor":           {secret("stringData: {token: *CANARY}"), "1: This is not valid YAML."},
		"wrong tag":                {secret("stringData: {token: !!float CANARY}"), "1: This is not valid YAML."},
		"wrong binary":             {secret("stringData: {token: !!binary CANARY}"), "1: This is not valid YAML."},
		"unknown escape":           {secret(`stringData: {token: "\qCANARY"}`), `4: This is not valid YAML: what follows a "\" is unknown; put the value in single quotes.`},
		"not closed":               {secret(`stringData: {token: CANARY`), `4: This is not valid YAML: a "{" was not closed, or a comma is missing.`},
		"quote not closed":         {secret("stringData: {token: \"CANARY}\n"), "4: This is not valid YAML: a quote was not closed."},
		"colon in the value":       {secret("stringData:\n  token: CANARY: CANARY\n"), `5: This is not valid YAML: a ":" stands where none can; look at the indentation, and put values that contain ": " in quotes.`},
		"no colon":                 {secret("stringData:\n  token: x\n  CANARY\nimmutable: true\n"), `7: This is not valid YAML: a key has no ":" behind it; look at the indentation.`},
		"key that is an object":    {secret("stringData: {? {CANARY: CANARY} : x}"), "1: This is not valid YAML."},
		"tab":                      {secret("stringData:\n\ttoken: CANARY\n"), "5: This is not valid YAML: a value begins with a tab, @, % or `; indent by spaces, and put such values in quotes."},
		"twice":                    {secret("stringData:\n  CANARY: a\n  CANARY: b\n"), "6: Secret default/s: This key stands here a second time, the first time one line above; remove one of them."},
		"not base64":               {secret("data:\n  CANARY: CANARY\n"), "5: Secret default/s: data: The value is not base64; encode it, or write it as it is under stringData."},
		"not a string":             {secret("stringData:\n  CANARY: [CANARY]\n"), "5: Secret default/s: stringData: The value must be a string; put it in quotes."},
		"not an object":            {secret("stringData: CANARY"), "4: Secret default/s: stringData: This must be an object: names, and a string for each."},
		"name with a space":        {secret("stringData:\n  \"CANARY x\": x\n"), "5: Secret default/s: stringData: The name of a value may consist of letters, digits, '-', '_' and '.', and have at most 253 of them."},
		"unknown field":            {secret("CANARY: CANARY"), "4: Secret default/s: There is a field that does not exist. The fields here are apiVersion, kind, metadata, type, immutable, data, stringData."},
		"unknown field of meta":    {strings.Replace(secret(""), "{name: s", "{name: s, "+canary+": x", 1), "3: Secret default/s: metadata: There is a field that does not exist. The fields here are annotations, labels, name, namespace."},
		"label with a bad value":   {strings.Replace(secret(""), `"true"`, `"`+canary+` x"`, 1), "3: Secret default/s: metadata.labels: A valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character."},
		"label that is no string":  {strings.Replace(secret(""), `"true"`, `true`, 1), "3: Secret default/s: metadata.labels: The value must be a string; put it in quotes."},
		"annotation of wrong type": {strings.Replace(secret(""), `labels:`, `annotations: {`+canary+`: [x]}, labels:`, 1), "3: Secret default/s: metadata.annotations: The value must be a string; put it in quotes."},
		"meta of wrong type":       {strings.Replace(secret(""), `labels:`, `finalizers: {`+canary+`: x}, labels:`, 1), "3: Secret default/s: metadata: A value in this has the wrong type."},
		"no name":                  {strings.Replace(secret("stringData: {token: CANARY}"), "name: s,", "", 1), "3: metadata.name: This Secret has no name; give it metadata.name, a string."},
		"key as a digest":          {quota("  keys:\n  - {name: a, digest: CANARY}\n"), "7: ApiKeyQuota default/q: spec.keys[0].digest: A digest is \"sha256:\" and 64 hexadecimal digits in small letters; \"tierkeeper keygen\" prints it. The key itself must not stand here."},
		"key as an entry":          {quota("  keys:\n  - CANARY\n"), "7: ApiKeyQuota default/q: spec.keys[0]: The value must be of type object, not string."},
		"key as a list":            {quota("  keys: CANARY\n"), "6: ApiKeyQuota default/q: spec.keys: The value must be of type array, not string."},
		"key as a name, twice":     {quota("  keys:\n  - {name: CANARY, secretKeyRef: {name: s, key: k}}\n  - {name: CANARY, secretKeyRef: {name: s, key: k}}\n"), "8: ApiKeyQuota default/q: spec.keys[1]: An entry of this list has the same key; remove one of them."},
		"key as a reference":       {quota("  keys:\n  - {name: a, secretKeyRef: CANARY}\n"), "7: ApiKeyQuota default/q: spec.keys[0].secretKeyRef: The value must be of type object, not string."},
		"key as an unknown field":  {quota("  keys:\n  - name: a\n    secretKeyRef: {name: s, key: k}\n    CANARY: x\n"), "9: ApiKeyQuota default/q: spec.keys[0]: There is a field that does not exist. The fields here are digest, name, secretKeyRef."},
		"key as a field, twice":    {quota("  keys:\n  - name: a\n    CANARY: x\n    CANARY: x\n    secretKeyRef: {name: s, key: k}\n"), "8: ApiKeyQuota default/q: spec.keys[0]: There is a field that does not exist. The fields here are digest, name, secretKeyRef."},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			put(t, dir, map[string]string{"a.yaml": tc.content})
			r := new(manifest.Loader).Load(dir)
			var got []string
			for _, p := range r.Problems {
				got = append(got, strings.TrimPrefix(p.String(), dir+"/a.yaml:"))
			}
			if all := fmt.Sprintf("%+v", r); strings.Contains(all, canary) {
				t.Errorf("want the key nowhere in the result, got %s", all)
			}
			if len(got) == 0 || got[0] != tc.want {
				t.Errorf("want %q first, got %q", tc.want, got)
			}
		})
	}
}

func TestSecretsAsJSON(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"number for a string": `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"tierkeeper.io/secret": "true"}}, "stringData": {"token": 1234567890123}}`,
		"not closed":          `{"apiVersion": "v1", "kind": "Secret", "stringData": {"token": "1234567890123`,
		"no quotes":           `{"apiVersion": "v1", "kind": "Secret", "stringData": {"token": x1234567890123}}`,
		"wrong escape":        `{"apiVersion": "v1", "kind": "Secret", "stringData": {"token": "\x1234567890123"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			put(t, dir, map[string]string{"a.json": content})
			r := new(manifest.Loader).Load(dir)
			if len(r.Problems) == 0 || strings.Contains(fmt.Sprintf("%+v", r), "1234567890123") {
				t.Errorf("want a problem that does not quote, got %+v", r)
			}
		})
	}
}

func TestSecretContent(t *testing.T) {
	t.Parallel()
	key := policy.Key{Digest: policy.HashKey([]byte("demo-free"))}
	cases := map[string]struct {
		content string
		want    policy.Secret
	}{
		"text":                     {secret("stringData: {token: demo-free}"), policy.Secret{Labelled: true, Keys: map[string]policy.Key{"token": key}}},
		"text with a line end":     {secret("stringData:\n  token: |\n    demo-free\n"), policy.Secret{Labelled: true, Keys: map[string]policy.Key{"token": key}}},
		"base64":                   {secret("type: Opaque\nimmutable: true\ndata: {token: ZGVtby1mcmVl}"), policy.Secret{Labelled: true, Type: "Opaque", Keys: map[string]policy.Key{"token": key}}},
		"base64 of several lines":  {secret("data:\n  token: |\n    ZGVtby1m\n    cmVl\n"), policy.Secret{Labelled: true, Keys: map[string]policy.Key{"token": key}}},
		"text goes before base64":  {secret("data: {token: eA==}\nstringData: {token: demo-free}"), policy.Secret{Labelled: true, Keys: map[string]policy.Key{"token": key}}},
		"empty, null and unusable": {secret(`stringData: {a: " ", b: , c: "x y"}`), policy.Secret{Labelled: true, Keys: map[string]policy.Key{"a": {Empty: true}, "b": {Empty: true}, "c": {Invalid: true}}}},
		"nothing":                  {secret(""), policy.Secret{Labelled: true, Keys: map[string]policy.Key{}}},
		"no label":                 {strings.Replace(secret("stringData: [demo-free]"), "tierkeeper.io/secret", "other", 1), policy.Secret{}},
		"another value":            {strings.Replace(secret("data: {token: '!'}"), `"true"`, `"false"`, 1), policy.Secret{}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			put(t, dir, map[string]string{"a.yaml": tc.content})
			r := new(manifest.Loader).Load(dir)
			if len(r.Problems) > 0 {
				t.Fatalf("want no problem, got %v", r.Problems)
			}
			want := map[policy.Name]policy.Secret{{Namespace: "default", Name: "s"}: tc.want}
			if diff := cmp.Diff(want, r.Input.Secrets); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if all, err := json.Marshal(r.Problems); err != nil || strings.Contains(string(all), "demo-free") {
				t.Errorf("want no key in %s (%v)", all, err)
			}
		})
	}
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, map[string]string{
		"a.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-a, labels: {team: a}}\nspec: {finalizers: [kubernetes]}\nstatus: {phase: Active}\n",
		"b.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: team.b}\n",
	})
	r := new(manifest.Loader).Load(dir)
	want := []policy.Namespace{{Name: "team-a", Labels: map[string]string{"team": "a"}}}
	if diff := cmp.Diff(want, r.Input.Namespaces); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	problems := []string{"DIR/b.yaml:3: Namespace team.b: metadata.name: Must not contain dots."}
	if diff := cmp.Diff(problems, says(dir, r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
