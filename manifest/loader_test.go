package manifest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

// tier writes a tier that allows most requests a minute.
func tier(name string, most any) string {
	return fmt.Sprintf(`apiVersion: tierkeeper.io/v1alpha1
kind: RateLimitTier
metadata: {name: %s}
spec: {limits: {rates: [{metric: Requests, per: Minute, max: %v}]}}
`, name, most)
}

func user(name, user string) string {
	return fmt.Sprintf(`apiVersion: tierkeeper.io/v1alpha1
kind: UserQuota
metadata: {name: %s}
spec: {user: %q}
`, name, user)
}

func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// says is a Result in short: "tier a=5" for each object, and each problem as a line without the directory.
func says(dir string, r manifest.Result) []string {
	var lines []string
	for _, tier := range r.Input.Tiers {
		lines = append(lines, fmt.Sprintf("tier %s=%d", tier.Name, *tier.Spec.Limits.Rates[0].Max))
	}
	for _, u := range r.Input.Users {
		lines = append(lines, fmt.Sprintf("user %s/%s=%s", u.Namespace, u.Name, u.Spec.User))
	}
	for _, p := range r.Problems {
		lines = append(lines, strings.ReplaceAll(p.String(), dir, "DIR"))
	}
	return lines
}

// Each case loads the files of before, then those of after, where an empty content removes the file.
func TestLastGood(t *testing.T) {
	t.Parallel()
	const lost = " Keeping the last good version."
	cases := map[string]struct {
		before, after map[string]string
		want          []string
	}{
		"a change counts": {
			before: map[string]string{"a.yaml": tier("a", 1)},
			after:  map[string]string{"a.yaml": tier("a", 2)},
			want:   []string{"tier a=2"},
		},
		"a removed file takes its objects along": {
			before: map[string]string{"a.yaml": tier("a", 1), "b.yaml": tier("b", 1)},
			after:  map[string]string{"a.yaml": ""},
			want:   []string{"tier b=1"},
		},
		"an object that was taken out of a file is gone": {
			before: map[string]string{"a.yaml": tier("a", 1) + "---\n" + tier("b", 1)},
			after:  map[string]string{"a.yaml": tier("b", 1)},
			want:   []string{"tier b=1"},
		},
		"a moved object is the same": {
			before: map[string]string{"a.yaml": user("u", "x")},
			after:  map[string]string{"a.yaml": "", "sub/b.json": `{"apiVersion": "tierkeeper.io/v1alpha1", "kind": "UserQuota", "metadata": {"name": "u"}, "spec": {"user": "x"}}`},
			want:   []string{"user default/u=x"},
		},
		"an invalid object keeps its version, and only that": {
			before: map[string]string{"a.yaml": tier("a", 1) + "---\n" + tier("b", 1)},
			after:  map[string]string{"a.yaml": tier("a", -1) + "---\n" + tier("b", 2)},
			want: []string{
				"tier a=1", "tier b=2",
				"DIR/a.yaml:4: RateLimitTier a: spec.limits.rates[0].max: The value -1 must be greater than or equal to 0." + lost,
			},
		},
		"a new invalid object is left out": {
			before: map[string]string{"a.yaml": tier("a", 1)},
			after:  map[string]string{"b.yaml": tier("b", -1)},
			want: []string{
				"tier a=1",
				"DIR/b.yaml:4: RateLimitTier b: spec.limits.rates[0].max: The value -1 must be greater than or equal to 0.",
			},
		},
		"a broken file keeps its objects": {
			before: map[string]string{"a.yaml": tier("a", 1), "b.yaml": tier("b", 1)},
			after:  map[string]string{"a.yaml": "kind: [", "b.yaml": tier("b", 2)},
			want: []string{
				"tier a=1", "tier b=2",
				`DIR/a.yaml:1: This is not valid YAML: a value is missing here.` + lost,
			},
		},
		"a broken document keeps what it may have held; the others count": {
			before: map[string]string{"a.yaml": tier("a", 1) + "---\n" + tier("b", 1)},
			after:  map[string]string{"a.yaml": "kind: RateLimitTier\n  name: a\n---\n" + tier("b", 2)},
			want: []string{
				"tier a=1", "tier b=2",
				`DIR/a.yaml:2: This is not valid YAML: a ":" stands where none can; look at the indentation, and put values that contain ": " in quotes.` + lost,
			},
		},
		"a document without a name keeps what it may have held": {
			before: map[string]string{"a.yaml": tier("a", 1)},
			after:  map[string]string{"a.yaml": strings.Replace(tier("a", 2), "{name: a}", "{}", 1)},
			want: []string{
				"tier a=1",
				"DIR/a.yaml:3: metadata.name: This RateLimitTier has no name; give it metadata.name, a string." + lost,
			},
		},
		"what a broken file held and another holds now is not kept twice": {
			before: map[string]string{"a.yaml": tier("a", 1)},
			after:  map[string]string{"a.yaml": "kind: [", "b.yaml": tier("a", 2)},
			want: []string{
				"tier a=2",
				"DIR/a.yaml:1: This is not valid YAML: a value is missing here.",
			},
		},
		"a file that is not text keeps its objects": {
			before: map[string]string{"a.yaml": tier("a", 1)},
			after:  map[string]string{"a.yaml": "\xff\xfe\x00"},
			want:   []string{"tier a=1", "DIR/a.yaml:1: This file is not UTF-8 text; save it as UTF-8." + lost},
		},
		"a file that is too large keeps its objects": {
			before: map[string]string{"a.yaml": tier("a", 1)},
			after:  map[string]string{"a.yaml": strings.Repeat("#", manifest.MaxFileBytes+1)},
			want:   []string{"tier a=1", "DIR/a.yaml: This file is larger than 16 MiB; split it." + lost},
		},
		"where all files are gone everything is kept": {
			before: map[string]string{"a.yaml": tier("a", 1), "sub/b.yaml": tier("b", 1)},
			after:  map[string]string{"a.yaml": "", "sub": ""},
			want: []string{
				"tier a=1", "tier b=1",
				"DIR: This directory holds no manifest: no file in it ends in .yaml, .yml or .json." + lost,
			},
		},
		"where the directory is gone everything is kept": {
			before: map[string]string{"a.yaml": tier("a", 1)},
			after:  map[string]string{"": ""},
			want:   []string{"tier a=1", "DIR: There is no such file or directory." + lost},
		},
		"the second of two counts for nothing": {
			before: map[string]string{"a.yaml": tier("a", 1)},
			after:  map[string]string{"b.yaml": "# a comment\n" + tier("a", 2)},
			want: []string{
				"tier a=1",
				"DIR/b.yaml:2: RateLimitTier a: This object stands in DIR/a.yaml:1 already, and that one counts; remove one of them.",
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "manifests")
			put(t, dir, tc.before)
			var loader manifest.Loader
			if r := loader.Load(dir); len(r.Problems) > 0 {
				t.Fatalf("loading what is good: %v", r.Problems)
			}
			for name, content := range tc.after {
				remove(t, filepath.Join(dir, name))
				if content != "" {
					put(t, dir, map[string]string{name: content})
				}
			}
			for range 2 { // what is kept once is kept on
				if diff := cmp.Diff(tc.want, says(dir, loader.Load(dir))); diff != "" {
					t.Errorf("second load (-want +got):\n%s", diff)
				}
			}
			put(t, dir, map[string]string{"a.yaml": tier("a", 7)})
			if got := says(dir, loader.Load(dir)); !slices.Contains(got, "tier a=7") {
				t.Errorf("want the repaired file to count, got %q", got)
			}
		})
	}
}

// Some fields may not change while an object is there.
func TestUpdates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var loader manifest.Loader
	load := func(content string, want ...string) {
		t.Helper()
		put(t, dir, map[string]string{"a.yaml": content})
		if diff := cmp.Diff(want, says(dir, loader.Load(dir))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	load(user("u", "x")+"---\n"+tier("a", 1), "tier a=1", "user default/u=x")
	load(user("u", "x")+"# the same\n", "user default/u=x")
	for range 2 {
		load(
			user("u", "y"), "user default/u=x",
			"DIR/a.yaml:1: UserQuota default/u: spec.user: user is immutable. Keeping the last good version.",
		)
	}
	load(tier("a", 1), "tier a=1")
	load(user("u", "y"), "user default/u=y") // removed and made anew
}

func TestFirstLoad(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		files map[string]string
		want  []string
	}{
		"several documents, comments and marks": {
			files: map[string]string{"a.yaml": "%YAML 1.1\n---\n# nothing\n---\n" + tier("a", 1) + "...\n# end\n---\r\n" + strings.ReplaceAll(tier("b", 2), "\n", "\r\n") + "--- # third\n" + tier("c", 3)},
			want:  []string{"tier a=1", "tier b=2", "tier c=3"},
		},
		"a document on the line of its mark": {
			files: map[string]string{"a.yml": "--- {apiVersion: tierkeeper.io/v1alpha1, kind: UserQuota, metadata: {name: u, namespace: team}, spec: {user: x}}\n"},
			want:  []string{"user team/u=x"},
		},
		"a byte order mark": {
			files: map[string]string{"a.yaml": "\xef\xbb\xbf" + tier("a", 1)},
			want:  []string{"tier a=1"},
		},
		"a second document that no mark announces": {
			files: map[string]string{"a.yaml": tier("a", 1) + "\u2028---\u2028" + tier("b", 1)},
			want:  []string{`DIR/a.yaml:6: Another document begins here without a line "---" before it.`},
		},
		"a list of any kind, a list of one kind, a list in a list, an empty list": {
			files: map[string]string{"a.yaml": `apiVersion: v1
kind: List
items:
- apiVersion: tierkeeper.io/v1alpha1
  kind: RateLimitTierList
  items:
  - metadata: {name: a}
    spec: {limits: {rates: [{metric: Requests, per: Minute, max: 1}]}}
  - metadata: {name: b}
    spec: {limits: {rates: [{metric: Requests, per: Minute, max: -1}]}}
- {apiVersion: v1, kind: Secret, metadata: {name: s}}
- {apiVersion: v1, kind: List, items: }
`},
			want: []string{
				"tier a=1",
				"DIR/a.yaml:10: RateLimitTier b: spec.limits.rates[0].max: The value -1 must be greater than or equal to 0.",
			},
		},
		"JSON after JSON, and lines in it": {
			files: map[string]string{"a.json": `{"apiVersion": "tierkeeper.io/v1alpha1", "kind": "UserQuota", "metadata": {"name": "a"}, "spec": {"user": "x"}}
{
	"apiVersion": "tierkeeper.io/v1alpha1",
	"kind": "UserQuota",
	"metadata": {"name": "b", "name": "b"},
	"spec": {"user": 5}
}`},
			want: []string{
				"user default/a=x",
				"DIR/a.json:5: UserQuota default/b: metadata.name: This key stands here a second time, the first time in the same line; remove one of them.",
				"DIR/a.json:6: UserQuota default/b: spec.user: The value must be a string; put it in quotes.",
			},
		},
		"broken JSON": {
			files: map[string]string{
				"a.json": `{"apiVersion": "tierkeeper.io/v1alpha1", "kind": "UserQuota", "metadata": {"name": "a"}, "spec": {"user": "x"}}` + "\n\n{\n\"kind\":\n}",
				"b.json": "{\n\"kind\": ",
			},
			want: []string{
				"user default/a=x",
				"DIR/a.json:5: This is not valid JSON: invalid character '}' looking for beginning of value.",
				"DIR/b.json:2: This is not valid JSON: it ends too early.",
			},
		},
		"a version and a kind that do not exist": {
			files: map[string]string{
				"a.yaml": "apiVersion: tierkeeper.io/v1\nkind: RateLimitTier\nmetadata: {name: a}\n",
				"b.yaml": "apiVersion: tierkeeper.io/v1alpha1\nkind: RateLimitTeir\nmetadata: {name: a}\n",
				"c.yaml": "apiVersion: tierkeeper.io/v1alpha1\nmetadata: {name: a}\n",
				"d.yaml": "kind: RateLimitTier\nmetadata: {name: a}\n",
				"e.yaml": "apiVersion: v1\nkind: secret\nmetadata: {name: a}\n",
			},
			want: []string{
				`DIR/a.yaml:2: kind: There is no kind "RateLimitTier" in "tierkeeper.io/v1". tierkeeper.io/v1alpha1 has the kinds ApiKeyQuota, ModelLimit, QuotaGateway, RateLimitTier, UserQuota.`,
				`DIR/b.yaml:2: kind: There is no kind "RateLimitTeir" in "tierkeeper.io/v1alpha1". tierkeeper.io/v1alpha1 has the kinds ApiKeyQuota, ModelLimit, QuotaGateway, RateLimitTier, UserQuota.`,
				`DIR/c.yaml:1: kind: This object has no kind. tierkeeper.io/v1alpha1 has the kinds ApiKeyQuota, ModelLimit, QuotaGateway, RateLimitTier, UserQuota.`,
				`DIR/d.yaml:1: apiVersion: A RateLimitTier has apiVersion: tierkeeper.io/v1alpha1; write that.`,
				`DIR/e.yaml:2: kind: Kinds tell small letters from capitals; write Secret.`,
			},
		},
		"the namespace of a kind that has none": {
			files: map[string]string{"a.yaml": strings.Replace(tier("a", 1), "{name: a}", "{name: a, namespace: team}", 1)},
			want:  []string{"tier a=1"},
		},
		"a namespace that YAML takes for a boolean": {
			files: map[string]string{"a.yaml": strings.Replace(user("a", "x"), "{name: a}", "{name: a, namespace: n}", 1)},
			want:  []string{"DIR/a.yaml:3: metadata.namespace: The value must be a string; put it in quotes."},
		},
		"an anchor in place of a value": {
			files: map[string]string{"a.yaml": "apiVersion: tierkeeper.io/v1alpha1\nkind: RateLimitTier\nmetadata: {name: a}\nspec:\n  limits: &same {rates: [{metric: Requests, per: Minute, max: 4}]}\n  resources: [{resource: chat, limits: *same}]\n"},
			want:  []string{"tier a=4"},
		},
		"no manifest at all": {
			files: map[string]string{"README.md": "hello"},
			want:  []string{"DIR: This directory holds no manifest: no file in it ends in .yaml, .yml or .json."},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			put(t, dir, tc.files)
			if diff := cmp.Diff(tc.want, says(dir, new(manifest.Loader).Load(dir))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What an API server sets itself, a file cannot: an older object goes first in claims.
func TestServerFieldsAreDropped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, map[string]string{"a.yaml": strings.Replace(tier("a", 1), "{name: a}",
		"{name: a, creationTimestamp: 2001-01-01T00:00:00Z, uid: x, resourceVersion: '5', generation: 7, labels: {team: a}}", 1)})
	r := new(manifest.Loader).Load(dir)
	if len(r.Problems) > 0 || len(r.Input.Tiers) != 1 {
		t.Fatalf("want one tier, got %v", says(dir, r))
	}
	meta := r.Input.Tiers[0].ObjectMeta
	if !meta.CreationTimestamp.IsZero() || meta.UID != "" || meta.ResourceVersion != "" || meta.Generation != 0 {
		t.Errorf("want no fields of the server, got %+v", meta)
	}
	if meta.Labels["team"] != "a" {
		t.Errorf("want the labels, got %+v", meta)
	}
}

func TestIgnored(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, map[string]string{
		"a.yaml":             tier("a", 1),
		"deployment.yaml":    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 1, replicas: 2}\n",
		"kustomization.yaml": "resources: [a.yaml]\n",
		"patch.yaml":         "- {op: remove, path: /a}\n",
		"user.yaml":          "apiVersion: example.com/v1\nkind: UserQuota\nmetadata: {name: other}\n",
		".hidden.yaml":       "kind: [",
		".git/a.yaml":        "kind: [",
		"notes.txt":          "kind: [",
	})
	r := new(manifest.Loader).Load(dir)
	if diff := cmp.Diff([]string{"tier a=1"}, says(dir, r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want := []manifest.Ignored{
		{Source: manifest.Source{File: dir + "/deployment.yaml", Document: 1, Line: 1}, APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
		{Source: manifest.Source{File: dir + "/kustomization.yaml", Document: 1, Line: 1}},
		{Source: manifest.Source{File: dir + "/patch.yaml", Document: 1, Line: 1}},
		{Source: manifest.Source{File: dir + "/user.yaml", Document: 1, Line: 1}, APIVersion: "example.com/v1", Kind: "UserQuota", Name: "other"},
	}
	if diff := cmp.Diff(want, r.Ignored); diff != "" {
		t.Errorf("ignored (-want +got):\n%s", diff)
	}
	if len(r.Files) != 5 {
		t.Errorf("want 5 files, got %q", r.Files)
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, map[string]string{"a.yaml": "# one\n\n---\n# two\n" + tier("a", 1) + "---\n" + tier("b", 1)})
	r := new(manifest.Loader).Load(dir)
	want := map[policy.Object]manifest.Source{
		{Kind: policy.KindTier, Name: policy.Name{Name: "a"}}: {File: dir + "/a.yaml", Document: 1, Line: 5},
		{Kind: policy.KindTier, Name: policy.Name{Name: "b"}}: {File: dir + "/a.yaml", Document: 2, Line: 10},
	}
	if diff := cmp.Diff(want, r.Sources); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
