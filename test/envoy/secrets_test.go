package envoy_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Keys that are like nothing else, and long enough for a part of them to be no coincidence.
const (
	liveGood = "sk-live-good/+Zq81x0Vt7b3WmKe"
	liveHeld = "sk-live-held/+Qn52c9Jy6r4DfHu"
	liveLate = "sk-live-late/+Gs07k3Lp9w8XoTi"
	liveNone = "sk-live-none/+Bv64m1Rd2h5YaEc"
	liveWait = "sk-live-wait/+Uj93f5Nz1k7SgPl"
)

var secrets = []string{liveGood, liveHeld, liveLate, liveNone, liveWait}

// spellings are what a key may look like in a log, a file or an answer. In base64 it looks different after 0, 1 or 2 other
// bytes, and its ends share letters with what stands around it.
func spellings(key string) []string {
	all := []string{key, url.QueryEscape(key), url.PathEscape(key), hex.EncodeToString([]byte(key)), strings.ToUpper(hex.EncodeToString([]byte(key)))}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			text := encoding.EncodeToString([]byte(strings.Repeat("\x00", before) + key))
			first := (before*8 + 5) / 6
			whole := (before + len(key)) * 8 / 6
			all = append(all, text[first:whole])
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func leaks(places map[string]string) []string { return leaksOf(secrets, places) }

// leaksOf finds the places that hold a key, in any spelling.
func leaksOf(keys []string, places map[string]string) []string {
	var found []string
	for place, content := range places {
		for _, key := range keys {
			for _, spelling := range spellings(key) {
				if strings.Contains(content, spelling) {
					found = append(found, place+" holds "+spelling)
				}
			}
		}
	}
	return found
}

func TestKeysAreFoundInEverySpelling(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]string{
		"clear":             "msg=\"request\" key=" + liveGood + " status=200",
		"query":             "GET /v1?key=" + url.QueryEscape(liveNone) + " HTTP/1.1",
		"hex":               hex.EncodeToString([]byte("Bearer " + liveGood + "\n")),
		"HEX":               strings.ToUpper(hex.EncodeToString([]byte("x" + liveGood))),
		"base64":            base64.StdEncoding.EncodeToString([]byte(liveHeld)),
		"base64, shifted":   base64.StdEncoding.EncodeToString([]byte("Bearer " + liveHeld + " and more")),
		"base64, shifted 2": base64.StdEncoding.EncodeToString([]byte("Bearer: " + liveHeld + " and more")),
		"base64url":         base64.RawURLEncoding.EncodeToString([]byte("id:" + liveLate + ":")),
	} {
		if got := leaks(map[string]string{name: plant}); len(got) == 0 {
			t.Errorf("%s: a key is not found in %s", name, plant)
		}
	}
	harmless := map[string]string{"text": "sk-live-good is the beginning of a key", "digest": hex.EncodeToString([]byte("sk-live-"))}
	if got := leaks(harmless); got != nil {
		t.Errorf("found where there is no key: %v", got)
	}
}

func TestNoKeyIsWrittenAnywhere(t *testing.T) {
	t.Parallel()
	expired := strings.Replace(holder("late", "plan", liveLate), "  tierRef:", "  expirationTime: 2020-01-01T00:00:00Z\n  tierRef:", 1)
	suspended := strings.Replace(holder("held", "plan", liveHeld), "  tierRef:", "  desiredState: Suspended\n  tierRef:", 1)
	s := start(t, manifests(gateway, tier("plan", "{metric: Requests, per: Day, max: 100}", "concurrency: 50"),
		holder("good", "plan", liveGood), suspended, expired, holder("wait", "nowhere", liveWait)))
	clearOf(t, 24*time.Hour)
	statuses := map[int]bool{}
	for _, key := range secrets {
		for _, r := range revealing(t, key) {
			a := s.send(t, r)
			statuses[a.status] = true
			if found := leaks(map[string]string{"the answer": a.body, "its headers": jsonOf(a.header)}); found != nil {
				t.Errorf("%s %s: %v", r.method, a.body, found)
			}
		}
	}
	for _, status := range []int{200, 400, 401, 404, 413, 431, 503} {
		if !statuses[status] {
			t.Errorf("no request was answered %d: the test does not reach what it is for", status)
		}
	}
	if _, err := fetch(t.Context(), "http://"+s.demo, request{path: chatPath + "?key=" + url.QueryEscape(liveGood), key: liveGood, body: prompt{}.chat()}); err != nil {
		t.Fatal(err)
	}
	// What is said of a wrong manifest quotes nothing that may be a key.
	s.write(t, "broken.yaml", holder("broken", "plan", liveGood)+"\n  spec: [oops\n")
	s.write(t, "misspelt.yaml", strings.Replace(holder("misspelt", "plan", liveGood), "stringData", "stringDate", 1))
	s.write(t, "misplaced.yaml", `{apiVersion: tierkeeper.io/v1alpha1, kind: ApiKeyQuota, metadata: {name: misplaced}, spec: {tierRef: {name: plan}, keys: [{name: a, digest: "`+liveGood+`"}]}}`)
	for _, name := range []string{"broken.yaml", "misspelt.yaml", "misplaced.yaml"} {
		eventually(t, soon, name+" is told", func() bool { return strings.Contains(s.Stdout.String(), name) })
	}
	places := map[string]string{"/demo/requests": s.history(t)}
	s.administration(t, places)
	s.stop(t, syscall.SIGTERM)
	places["stdout"], places["stderr, and Envoy's log"] = s.Stdout.String(), s.Stderr.String()
	files(t, s.dataDir, places)
	for place, proof := range map[string]string{
		"stdout": "ApiKeyQuota default/good", "stderr, and Envoy's log": "default/good", "/demo/requests": `"authorization"`,
		"counters.db": "", "accepted.json": "default/good", "envoy-default_main.json": "tierkeeper",
		"/stats": "http.tierkeeper.downstream_rq_2xx", "/config_dump": "default/main", "/clusters": "default/main/demo",
	} {
		if content := places[place]; content == "" || !strings.Contains(content, proof) {
			t.Errorf("%s does not hold what it should: %d bytes", place, len(content))
		}
	}
	if !strings.Contains(s.Stderr.String(), "][info]") {
		t.Error("Envoy's own log is not among what is searched")
	}
	if found := leaks(places); found != nil {
		t.Errorf("keys are written: %v", found)
	}
}

// revealing are requests that bring a key to as many answers as there are.
func revealing(t *testing.T, key string) []request {
	t.Helper()
	inQuery := "?key=" + url.QueryEscape(key)
	large := sized(t, "", 70_000, prompt{}).body
	return []request{
		chat(key, prompt{}),
		messages("", prompt{stream: true}, "x-api-key: "+key),
		{path: chatPath + inQuery, body: prompt{}.chat()},
		{path: messagesPath + inQuery, key: key, body: prompt{}.messages()},
		chat(key, prompt{}, "x-api-key: "+key+"x"),
		{path: chatPath + inQuery, body: `{"model":`},
		{path: chatPath + inQuery, key: key, body: large},
		{path: "/v1/nothing" + inQuery, key: key, body: "{}"},
		{path: imagesPath + inQuery, key: key, body: "{}"},
		{path: chatPath + inQuery, method: http.MethodOptions, key: key},
		{path: chatPath + inQuery, key: key, body: prompt{}.chat(), header: []string{"x-demo-status: 503"}},
		{path: chatPath + inQuery, key: key, body: prompt{}.chat(), header: []string{"x-demo-reset: on"}},
		{path: chatPath + inQuery, key: key, body: prompt{}.chat(), header: []string{"x-large: " + strings.Repeat("h", 100<<10)}},
		{path: chatPath + inQuery, key: key, body: prompt{model: strings.Repeat("m", 10<<10)}.chat()},
		{path: "/v1%2Fchat" + inQuery, key: key, body: "{}"},
	}
}

// administration adds what Envoy tells of itself.
func (s *system) administration(t *testing.T, to map[string]string) {
	t.Helper()
	running := s.envoys(t)
	if len(running) != 1 {
		t.Fatalf("Envoys %v are running, want one", running)
	}
	socket := fmt.Sprintf("/proc/%d/cwd/admin.sock", running[0])
	if about, err := os.Stat(socket); err != nil || about.Mode().Perm() != 0o600 {
		t.Errorf("others than its owner may ask Envoy: %v, %v", about, err)
	}
	var dialer net.Dialer
	admin := visitor{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}, "http://envoy"}
	for _, path := range []string{"/stats", "/config_dump", "/clusters", "/certs", "/listeners?format=json"} {
		a, err := admin.fetch(t.Context(), request{method: http.MethodGet, path: path})
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("%s: %d, %v", path, a.status, err)
		}
		to[path] = a.body
	}
}

// files adds the content of every file below dir.
func files(t *testing.T, dir string, to map[string]string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		to[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
