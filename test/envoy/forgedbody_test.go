package envoy_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Whatever spelling is thought up for a path of Gemini: it is counted as the model that the provider takes it for, or it is
// not forwarded. Only what is no call goes to the route that counts nothing.
func TestNoSpellingOfAPathEscapesItsModel(t *testing.T) {
	t.Parallel()
	s, w := witnessed(t, "", "")
	const counted, refused, uncounted = "counted", "refused", "not counted"
	for spelling, want := range map[string]string{
		"/v1beta/models/pro:generateContent":                 counted,
		"/v1beta/models/pro:streamGenerateContent?alt=sse":   counted,
		"/v1beta/models/pro:generateContent?model=cheap":     counted,
		"/v1beta/models/%70ro:generateContent":               counted,
		"/v1beta/models/p%72o:%67enerateContent":             counted,
		"/v1beta//models///pro:generateContent":              counted,
		"/v1beta/models/./pro:generateContent":               counted,
		"/v1beta/models/cheap/../pro:generateContent":        counted,
		"/v1beta/models/cheap/%2e%2e/pro:generateContent":    counted,
		`/v1beta/models\pro:generateContent`:                 counted,
		"/v1beta/models/pro%3AgenerateContent":               refused,
		"/v1beta/models/pro%3agenerateContent":               refused,
		"/v1beta/models/pro%253AgenerateContent":             refused,
		"/v1beta/models%2Fpro:generateContent":               refused,
		"/v1beta/models/x%2F..%2Fpro:generateContent":        refused,
		"/v1beta/models/pro%00:generateContent":              refused,
		"/v1beta/models/pro%20:generateContent":              refused,
		"/v1beta/models/pr%C3%B6:generateContent":            refused,
		"/v1beta/models/pro:generateContent%20":              refused,
		"/v1beta/MODELS/pro:generateContent":                 refused,
		"/v1beta/models/../models2/pro:generateContent":      refused,
		"/v1beta/models/pro;x:generateContent":               refused,
		"/v1beta/models/pro:generateContent;x":               refused,
		"/v1beta/models/pro:generateContent/":                refused,
		"/v1beta/models/a/pro:generateContent":               refused,
		"/v1beta/models/:generateContent":                    refused,
		"/v1beta/models/pro:generateContent:generateContent": refused,
		"/v1beta/models/pro:GENERATECONTENT":                 refused,
		"/v1beta/models/pro:countTokens":                     uncounted,
		"/v1beta/models/pro":                                 uncounted,
	} {
		status, header, body := s.sendAsWritten(t, spelling, spelling,
			`{"model":"cheap","contents":[{"parts":[{"text":"Hello"}]}],"generationConfig":{"maxOutputTokens":3}}`)
		got := uncounted
		switch reached := len(w.of(spelling)); {
		case reached == 0 && status >= 400:
			got = refused
		case reached == 1 && header.Get("x-ratelimit-used") != "":
			got = counted
		}
		if got != want {
			t.Errorf("%s: %s, want %s: %d %v %s", spelling, got, want, status, header, body)
		}
	}
	want := entry{"model": "pro", "outputTokens": "3", "resource": "chat", "holder": "default/good"}
	for _, e := range s.entries(func(e entry) bool { return e["msg"] == "reserved" }) {
		for name, value := range want {
			if e[name] != value {
				t.Errorf("reserved %v, want %v", e, want)
			}
		}
	}
}

// sendAsWritten sends a request with the path as it is.
func (s *system) sendAsWritten(t *testing.T, name, path, body string, header ...string) (status int, got http.Header, answer string) {
	t.Helper()
	conn := s.connect(t)
	header = append([]string{"Host: h", "Authorization: Bearer " + keyGood, "x-case: " + name}, header...)
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\n%s\r\nContent-Length: %d\r\n\r\n%s", path, strings.Join(header, "\r\n"), len(body), body); err != nil {
		t.Fatal(err)
	}
	return readAnswer(t, conn)
}

// A number that is none, or that no model can bring out, is as good as none: the model's default is reserved. In the end the
// truth is charged.
func TestWhatIsNoMaximumReservesTheDefault(t *testing.T) {
	t.Parallel()
	s, _ := witnessed(t, "", "")
	const unsaid, most, refused = 1024, 1<<27 - 1, -1
	fields := map[string]struct{ path, body string }{
		"chat":                 {chatPath, `{"model":%q,"messages":[],"max_tokens":%s}`},
		"chat, its newer name": {chatPath, `{"model":%q,"messages":[],"max_completion_tokens":%s}`},
		"responses":            {"/v1/responses", `{"model":%q,"input":"x","max_output_tokens":%s}`},
		"messages":             {messagesPath, `{"model":%q,"messages":[],"max_tokens":%s}`},
		"gemini":               {"", `{"model":%q,"contents":[],"generationConfig":{"maxOutputTokens":%s}}`},
		"chat, somewhere else": {chatPath, `{"model":%q,"messages":[],"options":{"max_tokens":%s}}`},
	}
	for written, want := range map[string]int64{
		"1": 1, "4096": 4096, "134217726": most - 1, "4294967296": most, "1000000000000": most,
		"-1": unsaid, "0": unsaid, "1000000000000000000": unsaid, "1e308": unsaid, "1e400": refused, "-1e308": unsaid,
		"99999999999999999999999999": unsaid, "1.5": unsaid, `"many"`: unsaid, `"5"`: unsaid, "null": unsaid, "true": unsaid, "[5]": unsaid, `{"max":5}`: unsaid,
	} {
		for name, field := range fields {
			model := name + " of " + written
			path := field.path
			if path == "" {
				model = fmt.Sprintf("gemini-%x", written)
				path = "/v1beta/models/" + model + ":generateContent"
			}
			want := want
			if name == "chat, somewhere else" && want != refused {
				want = unsaid
			}
			a := s.send(t, request{path: path, key: keyGood, body: fmt.Sprintf(field.body, model, written)})
			if want == refused {
				if a.status != http.StatusBadRequest {
					t.Errorf("%s: status %d, want 400: %s", model, a.status, a.body)
				}
				continue
			}
			reserved, settled := s.settlement(t, model)
			if a.status != http.StatusOK || reserved.number(t, "outputTokens") != want || settled["outputTokens"] != "7" || settled["inputTokens"] != "5" {
				t.Errorf("%s: status %d, reserved %s tokens of output and settled %v, want %d and 5 + 7", model, a.status, reserved["outputTokens"], settled, want)
			}
		}
	}
}

// What a client says of streams decides nothing where the provider says what it sends.
func TestAStreamThatIsNoFlagChangesNoCharge(t *testing.T) {
	t.Parallel()
	s, _ := witnessed(t, "", "")
	charged := map[string]map[string]bool{}
	for _, written := range []string{"true", "false", `"true"`, `"false"`, `""`, "1", "0", "null", "[true]", `{"stream":true}`} {
		for kind := range testimonies {
			if kind == "failure" {
				continue
			}
			model := kind + "/" + written
			body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"Hello"}],"stream":%s}`, model, written)
			s.pass(t, request{key: keyGood, body: body, header: []string{"x-answer: " + kind}})
			_, settled := s.settlement(t, model)
			if charged[kind] == nil {
				charged[kind] = map[string]bool{}
			}
			charged[kind][settled["outputTokens"]+", estimated: "+settled["outputEstimated"]] = true
		}
	}
	for kind, all := range charged {
		if len(all) != 1 || kind == "" && !all["7, estimated: false"] {
			t.Errorf("provider %q: charged for output %v, want one number, and 7 where it is reported", kind, all)
		}
	}
}

// A model is what its name says byte for byte. With unknownModels: Deny no spelling is taken for another model than it is by
// the provider, and with limits by model none is counted apart.
func TestNoSpellingOfAModelIsServed(t *testing.T) {
	t.Parallel()
	s, w := witnessed(t, "", "  unknownModels: {action: Deny}", `apiVersion: tierkeeper.io/v1alpha1
kind: ModelLimit
metadata: {name: gpt}
spec: {models: [gpt-4o]}`)
	const badModel, badJSON, unknown = "400 invalid_model", "400 invalid_json", "404 model_not_found"
	for written, want := range map[string]string{
		`"model":"gpt-4o"`:                              "",
		`"mod\u0065l":"gpt-\u00344o"`:                   unknown,
		`"model":"gpt-\u0034o"`:                         "",
		`"model":"gpt-4o\u0000"`:                        badModel,
		`"model":"gpt-4o\n"`:                            badModel,
		`"model":"gpt\u0007-4o"`:                        badModel,
		`"model":"gpt-4o\u007f"`:                        badModel,
		`"model":"gpt-4o\u0085"`:                        badModel,
		`"model":" gpt-4o"`:                             badModel,
		`"model":"gpt-4o\t"`:                            badModel,
		`"model":"gpt-4o\u00a0"`:                        badModel,
		`"model":"gpt-4o\u2028"`:                        badModel,
		`"model":"gpt-4o\u200b"`:                        unknown,
		`"model":"GPT-4O"`:                              unknown,
		`"model":"gpt\u20104o"`:                         unknown,
		`"model":"models/gpt-4o"`:                       unknown,
		"\"model\":\"gpt-4o\xff\"":                      badJSON,
		"\"model\":\"gpt-4o\x01\"":                      badJSON,
		`"model":"gpt-4o\ud800"`:                        badJSON,
		`"model":"` + strings.Repeat("m", 10_000) + `"`: badModel,
		`"model":""`:                                    badModel,
		`"model":4`:                                     badModel,
		`"model":null`:                                  badModel,
		`"model":["gpt-4o"]`:                            badModel,
		`"model":{"id":"gpt-4o"}`:                       badModel,
		`"x":{"model":"gpt-4o"}`:                        badModel,
		`"model":"gpt-4o","model":"other"`:              badJSON,
		`"model":"gpt-4o","mod\u0065l":"other"`:         badJSON,
	} {
		for _, path := range []string{chatPath, "/v1/responses", messagesPath, "/v1/audio/speech"} {
			name := path + fmt.Sprintf("%.60q", written)
			a := s.send(t, request{path: path, key: keyGood, body: `{"messages":[],` + written + `}`, header: []string{"x-case: " + name}})
			got := verdict(a, nil)
			if path == messagesPath {
				got = anthropicVerdict(t, a, want)
			}
			reached := len(w.of(name))
			if want == "" && (a.status != http.StatusOK || reached != 1) || want != "" && (got != want || reached != 0) {
				t.Errorf("%s: %d %s at the provider %d times, want %q", name, a.status, a.body, reached, want)
			}
		}
	}
	// The query says nothing of the model.
	s.pass(t, request{path: chatPath + "?model=other", key: keyGood, body: `{"model":"gpt-4o","messages":[]}`})
	if a := s.send(t, request{path: chatPath + "?model=gpt-4o", key: keyGood, body: `{"model":"other","messages":[]}`}); a.status != http.StatusNotFound {
		t.Errorf("a model in the query: status %d, want 404", a.status)
	}
}

// anthropicVerdict is the wanted verdict if the answer has its status and the type that goes with it in Anthropic's shape.
func anthropicVerdict(t *testing.T, a answer, want string) string {
	t.Helper()
	var body struct{ Error struct{ Type string } }
	decode(t, a.body, &body)
	kinds := map[int]string{http.StatusBadRequest: "invalid_request_error", http.StatusNotFound: "not_found_error"}
	if strings.HasPrefix(want, fmt.Sprint(a.status)) && body.Error.Type == kinds[a.status] {
		return want
	}
	return fmt.Sprint(a.status, " ", body.Error.Type)
}

// A body is read by what it is, not by what its headers say it is.
func TestNoHeaderOfABodyHidesItsModel(t *testing.T) {
	t.Parallel()
	s, w := witnessed(t, "", "", "apiVersion: tierkeeper.io/v1alpha1\nkind: ModelLimit\nmetadata: {name: gpt}\nspec: {models: [gpt-4o], perKey: {concurrency: {max: 0}}}")
	plain := `{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}`
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	_, _ = io.WriteString(z, plain)
	_ = z.Close()
	for name, tc := range map[string]struct {
		header []string
		body   string
		status int
	}{
		"JSON":            {[]string{"Content-Type: application/json"}, plain, 429},
		"text":            {[]string{"Content-Type: text/plain"}, plain, 429},
		"nothing":         {nil, plain, 429},
		"an empty type":   {[]string{"Content-Type:"}, plain, 429},
		"a form":          {[]string{"Content-Type: multipart/form-data; boundary=x"}, plain, 429},
		"events":          {[]string{"Content-Type: text/event-stream"}, plain, 429},
		"another charset": {[]string{"Content-Type: application/json; charset=utf-16"}, plain, 429},
		"two types":       {[]string{"Content-Type: application/json", "Content-Type: text/plain"}, plain, 429},
		"compressed":      {[]string{"Content-Type: application/json", "Content-Encoding: gzip"}, compressed.String(), 400},
		"said to be so":   {[]string{"Content-Type: application/json", "Content-Encoding: gzip"}, plain, 429},
		"with a mark":     {[]string{"Content-Type: application/json"}, "\xef\xbb\xbf" + plain, 400},
		"two documents":   {[]string{"Content-Type: application/json"}, plain + strings.ReplaceAll(plain, "gpt-4o", "other"), 400},
	} {
		for _, path := range []string{chatPath, "/v1/responses", messagesPath, "/v1/audio/speech"} {
			status, _, body := s.sendAsWritten(t, path+name, path, tc.body, tc.header...)
			if reached := len(w.of(path + name)); status != tc.status || reached != 0 {
				t.Errorf("%s, %s: %d %s at the provider %d times, want %d", path, name, status, body, reached, tc.status)
			}
		}
	}
	for version, c := range speaking() {
		for name, length := range map[string]int64{"with a length": int64(len(plain)), "in chunks": -1} {
			req, err := request{key: keyGood, body: plain, header: []string{"x-case: " + version + name}}.to(t.Context(), s.port.url())
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = length
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if reached := len(w.of(version + name)); resp.StatusCode != http.StatusTooManyRequests || reached != 0 {
				t.Errorf("%s, %s: status %d and at the provider %d times, want 429", version, name, resp.StatusCode, reached)
			}
		}
	}
}
