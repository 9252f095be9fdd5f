package manifest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

func loaded(t *testing.T, content string) manifest.Result {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, map[string]string{"a.yaml": content})
	r := new(manifest.Loader).Load(dir)
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	return r
}

func TestTheContentOfASecretIsThereForWhoAsks(t *testing.T) {
	t.Parallel()
	r := loaded(t, secret("stringData: {token: CANARY}\n---\n")+
		strings.Replace(secret(`stringData: {token: CANARY}`), "{name: s, labels: {tierkeeper.io/secret: \"true\"}}", "{name: unlabelled}", 1))
	got := map[string]string{}
	for name, content := range r.Secrets {
		got[name.String()] = string(content.Value("token"))
	}
	if diff := cmp.Diff(map[string]string{"default/s": canary}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := r.Secrets[policy.Name{Namespace: "default", Name: "s"}].Value("other"); got != nil {
		t.Errorf("got %q under a key that is not there, want nothing", got)
	}
}

// However somebody prints what was loaded, by mistake or to find one, the content stays out of it.
func TestTheContentOfASecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	r := loaded(t, secret(`stringData: {token: CANARY}`))
	content := r.Secrets[policy.Name{Namespace: "default", Name: "s"}]
	hidden := struct{ inside manifest.SecretContent }{content}
	var out bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		log := slog.New(handler).With("content", content, "pointer", &content)
		log.Info("printed", "result", r, "hidden", hidden, "error", fmt.Errorf("reading: %v", content))
	}
	for _, value := range []any{content, &content, hidden, &hidden, r, []any{content}, map[string]any{"a": content}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%T", "%08.3f"} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
		if text, err := json.Marshal(value); err == nil { // some have maps that JSON has not
			out.Write(text)
		}
	}
	printed := strings.ToLower(out.String())
	for _, spelling := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%d", []byte(canary)), fmt.Sprintf("%#v", []byte(canary))} {
		if strings.Contains(printed, strings.Trim(spelling, "[]")) {
			t.Errorf("%s is printed", spelling)
		}
	}
	if !strings.Contains(printed, "content of a secret") {
		t.Errorf("nothing says what is left out: %s", printed)
	}
}
