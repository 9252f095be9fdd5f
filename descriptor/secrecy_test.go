package descriptor_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/descriptor"
)

// However a Reserve, or a credential, is printed, nobody learns the API key.
func TestNoFormatShowsAnAPIKey(t *testing.T) {
	t.Parallel()
	const key = "sk-very-secret"
	var r descriptor.Reserve
	descriptor.DecodeReserve(pairs("header.authorization", "Bearer "+key, "query.key", key, "model", "gpt-5"), &r)
	c := r.Credentials[0]
	values := map[string]any{
		"a credential": c, "a pointer to one": &c, "several": r.Credentials, "a Reserve": r, "a pointer to a Reserve": &r,
		"a map": map[string]descriptor.Credential{"c": c}, "an error": fmt.Errorf("reading %v: %w", c, errors.ErrUnsupported),
	}
	for name, v := range values {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%10.3v"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		content, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(content)
		for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
			slog.New(h).Info("told", "value", v)
		}
		for form, secret := range map[string]string{
			"as it is": "very-secret", "in hex": hex.EncodeToString([]byte("very-secret")), "in numbers": "118 101 114 121",
			"in base64": strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(key)), "="),
		} {
			if strings.Contains(strings.ToLower(out.String()), strings.ToLower(secret)) {
				t.Errorf("%s shows the key %s:\n%s", name, form, out.String())
			}
		}
		if out.Len() == 0 {
			t.Errorf("%s prints nothing", name)
		}
	}
	if got := fmt.Sprint(c); got != "credential in authorization" {
		t.Errorf("a credential prints %q, want where it stood", got)
	}
}
