package policy_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/internal/golden"
	"github.com/tierkeeper/tierkeeper/policy"
)

// questions is an ask.yaml: what a case wants to know beside the verdicts.
type questions struct {
	Table bool    `json:"table,omitempty"` // the whole Table as well
	Ask   []query `json:"ask,omitempty"`
}

// A query names a holder in one of three ways, and what it asks for.
type query struct {
	Key      string `json:"key,omitempty"`      // namespace/name of an ApiKeyQuota
	Presents string `json:"presents,omitempty"` // an API key
	Stranger string `json:"stranger,omitempty"` // a client address with a Missing or Unknown key at the gateway
	KeyIs    string `json:"keyIs,omitempty"`
	Gateway  string `json:"gateway,omitempty"` // alone: its routes; with a key: whether it admits the key; with a model too: where it is asked
	Model    string `json:"model,omitempty"`
	Resource string `json:"resource,omitempty"`
	At       string `json:"at,omitempty"` // time, RFC 3339; absent: 2026-01-01
}

// TestGolden compiles the in.yaml of every case, where there is a last.yaml with what that one left accepted, and compares
// the verdicts and the answers to ask.yaml with the golden files.
func TestGolden(t *testing.T) {
	t.Parallel()
	for _, name := range golden.Cases(t, "testdata", "in.yaml") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join("testdata", name)
			table, before, verdicts := compileCase(t, dir)
			outputs := map[string][]byte{"verdicts.yaml": writeVerdicts(verdicts)}
			q := readQuestions(t, dir)
			if len(q.Ask) > 0 {
				outputs["limits.yaml"] = writeAnswers(t, q.Ask, table, before)
			}
			if q.Table {
				content, err := yaml.Marshal(table)
				if err != nil {
					t.Fatal(err)
				}
				outputs["table.yaml"] = content
			}
			golden.Check(t, dir, outputs, "in.yaml", "last.yaml", "ask.yaml")
		})
	}
}

// compileCase compiles a case; before is the Table of its last.yaml, or nil.
func compileCase(t testing.TB, dir string) (table, before *policy.Table, verdicts []policy.Verdict) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "last.yaml")); err == nil {
		before, _ = policy.Compile(readInput(t, dir, "last.yaml"))
	}
	table, verdicts = policy.Compile(readCase(t, dir))
	return table, before, verdicts
}

// readCase reads the in.yaml of a case, with what its last.yaml left accepted.
func readCase(t testing.TB, dir string) policy.Input {
	t.Helper()
	in := readInput(t, dir, "in.yaml")
	if _, err := os.Stat(filepath.Join(dir, "last.yaml")); err == nil {
		before, _ := policy.Compile(readInput(t, dir, "last.yaml"))
		in.LastAccepted = restarted(t, before.Accepted())
	}
	return in
}

// restarted is what a restart leaves of what was accepted.
func restarted(t rapid.TB, accepted policy.Accepted) (out policy.Accepted) {
	t.Helper()
	content, err := json.Marshal(accepted)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func readQuestions(t testing.TB, dir string) (q questions) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "ask.yaml"))
	if errors.Is(err, fs.ErrNotExist) {
		return q
	}
	if err != nil {
		t.Fatal(err)
	}
	return decode[questions](t, content)
}

func writeVerdicts(verdicts []policy.Verdict) []byte {
	var out bytes.Buffer
	for _, v := range verdicts {
		fmt.Fprintf(&out, "- object: %s\n", v.Object)
		if v.Accepted() {
			fmt.Fprintln(&out, "  accepted: true")
			continue
		}
		fmt.Fprintln(&out, "  problems:")
		for _, p := range v.Problems {
			fmt.Fprintf(&out, "  - reason: %s\n    field: %s\n    message: %s\n", p.Reason, strconv.Quote(p.Field), strconv.Quote(p.Message))
		}
	}
	return out.Bytes()
}

func writeAnswers(t testing.TB, ask []query, table, before *policy.Table) []byte {
	t.Helper()
	var out bytes.Buffer
	counters := map[string]int{}
	for _, q := range ask {
		fmt.Fprintf(&out, "- ask: %s\n", line(t, q))
		holder, facts := find(t, table, q)
		for _, fact := range facts {
			fmt.Fprintf(&out, "  %s\n", fact)
		}
		if holder == nil {
			continue
		}
		gateway, _ := table.Gateway(q.Gateway)
		resolution := table.Resolve(gateway, holder, q.Model, q.Resource)
		if n := resolution.CachedInputPercent; n != 100 {
			fmt.Fprintf(&out, "  cachedInputPercent: %d\n", n)
		}
		if n := resolution.DefaultOutputTokens; n != policy.DefaultOutputTokens {
			fmt.Fprintf(&out, "  defaultOutputTokens: %d\n", n)
		}
		if len(resolution.Limits) == 0 {
			fmt.Fprintln(&out, "  limits: []")
			continue
		}
		fmt.Fprintln(&out, "  limits:")
		for _, l := range resolution.Limits {
			a := describe(t, l, holder, before, q)
			if counters[l.Counter] == 0 {
				counters[l.Counter] = len(counters) + 1
			}
			a.Counter = counters[l.Counter]
			fmt.Fprintf(&out, "  - %s\n", line(t, a))
		}
	}
	return out.Bytes()
}

// answer is one limit as limits.yaml shows it.
type answer struct {
	Scope    policy.Scope  `json:"scope"`
	Metric   policy.Metric `json:"metric"`
	Per      policy.Per    `json:"per,omitempty"`
	Max      int64         `json:"max"`
	Exceeded string        `json:"exceeded"`
	From     string        `json:"from"`
	Field    string        `json:"field"`
	Entry    string        `json:"entry,omitempty"`
	Shadow   bool          `json:"shadow,omitempty"`
	Waits    string        `json:"waits,omitempty"` // for a capacity
	Counter  int           `json:"counter"`         // equal numbers in one file: the same counter
	Count    string        `json:"count,omitempty"` // beside a last.yaml: whether the count goes on
}

func describe(t testing.TB, l policy.Limit, holder *policy.Holder, before *policy.Table, q query) answer {
	t.Helper()
	from := policy.Object{Kind: l.Origin.Kind, Name: policy.Name{Namespace: l.Origin.Namespace, Name: l.Origin.Name}}
	a := answer{
		Scope: l.Scope, Metric: l.Pair.Metric, Per: l.Pair.Per, Max: l.Max, Exceeded: l.Exceeded(),
		From: from.String(), Field: l.Origin.Field, Entry: l.Entry, Shadow: l.Shadow,
	}
	if l.Capacity != nil {
		a.Waits = l.Capacity.MaxWait(holder).String()
	}
	if before == nil {
		return a
	}
	a.Count = "new"
	if holder, _ := find(t, before, q); holder != nil {
		gateway, _ := before.Gateway(q.Gateway)
		for _, old := range before.Resolve(gateway, holder, q.Model, q.Resource).Limits {
			if old.Counter == l.Counter {
				a.Count = "goes on"
			}
		}
	}
	return a
}

// find finds the holder that a query names, nil if there is none, and what else is to be said of it.
func find(t testing.TB, table *policy.Table, q query) (*policy.Holder, []string) {
	t.Helper()
	if q.Stranger != "" {
		return findStranger(t, table, q)
	}
	if q.Key == "" && q.Presents == "" {
		return nil, describeRoutes(table, q.Gateway)
	}
	namespace, name, _ := strings.Cut(q.Key, "/")
	credential, known := table.Quota(policy.Name{Namespace: namespace, Name: name})
	if q.Presents != "" {
		credential, known = table.Lookup(policy.HashKey([]byte(q.Presents)))
	}
	if !known {
		return nil, []string{"known: false"}
	}
	if q.Gateway != "" && q.Model == "" {
		gateway, found := table.Gateway(q.Gateway)
		return nil, []string{fmt.Sprintf("admitted: %t", found && gateway.Admits(credential.Quota.Namespace))}
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if q.At != "" {
		var err error
		if at, err = time.Parse(time.RFC3339, q.At); err != nil {
			t.Fatal(err)
		}
	}
	facts := []string{"quota: " + credential.Quota.String(), "standing: " + credential.Standing(at).String()}
	if credential.Holder == nil {
		return nil, facts
	}
	return credential.Holder, append(facts, fmt.Sprintf("tier: {name: %s, priority: %d}", credential.Holder.Tier, credential.Holder.Priority))
}

func findStranger(t testing.TB, table *policy.Table, q query) (*policy.Holder, []string) {
	t.Helper()
	gateway, found := table.Gateway(q.Gateway)
	if !found {
		return nil, []string{"gateway: none"}
	}
	assigned := map[string]*policy.Assigned{"Missing": gateway.MissingKey, "Unknown": gateway.UnknownKey}[q.KeyIs]
	if assigned == nil {
		return nil, []string{"denied: true"}
	}
	holder := assigned.Holder(netip.MustParseAddr(q.Stranger))
	return holder, []string{"holder: " + strconv.Quote(holder.Name), fmt.Sprintf("tier: {name: %s, priority: %d}", holder.Tier, holder.Priority)}
}

func describeRoutes(table *policy.Table, gateway string) []string {
	g, found := table.Gateway(gateway)
	if !found {
		return []string{"gateway: none"}
	}
	facts := []string{"routes:"}
	for _, r := range g.Routes {
		kind := map[bool]string{false: "exactly", true: "below"}[r.Prefix]
		if r.Protocol == policy.Gemini {
			kind = "calls of models below"
		}
		facts = append(facts, fmt.Sprintf("- %s %s %s -> %s", cmp.Or(r.Method, "ANY"), kind, r.Path, r.Name))
	}
	return facts
}

// line writes a value as a JSON object, which is YAML on one line.
func line(t testing.TB, v any) string {
	t.Helper()
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}

// TestEveryReasonIsProduced holds the reasons that the API package documents against those that some case produces.
func TestEveryReasonIsProduced(t *testing.T) {
	t.Parallel()
	produced := map[string]bool{}
	for _, name := range golden.Cases(t, "testdata", "in.yaml") {
		_, _, verdicts := compileCase(t, filepath.Join("testdata", name))
		for _, v := range verdicts {
			if v.Accepted() {
				produced[v1alpha1.ReasonAccepted] = true
			}
			for _, p := range v.Problems {
				produced[p.Reason] = true
			}
		}
	}
	documented := acceptedReasons(t)
	for _, reason := range documented {
		if !produced[reason] {
			t.Errorf("no case produces the reason %s", reason)
		}
		delete(produced, reason)
	}
	for _, reason := range slices.Sorted(maps.Keys(produced)) {
		t.Errorf("the API package does not document the reason %s", reason)
	}
}

// acceptedReasons reads the constants of the reasons of ConditionAccepted from their source.
func acceptedReasons(t testing.TB) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../api/v1alpha1/conditions.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, d := range file.Decls {
		group, isGroup := d.(*ast.GenDecl)
		if !isGroup || !strings.HasPrefix(group.Doc.Text(), "Reasons of ConditionAccepted") {
			continue
		}
		for _, s := range group.Specs {
			literal := s.(*ast.ValueSpec).Values[0].(*ast.BasicLit).Value
			reasons = append(reasons, strings.Trim(literal, `"`))
		}
	}
	if len(reasons) == 0 {
		t.Fatal("conditions.go has no constants under the comment \"Reasons of ConditionAccepted\"")
	}
	return reasons
}
