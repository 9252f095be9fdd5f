package admin_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierkeeper/tierkeeper/admin"
	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

var noon = time.Date(2026, time.January, 2, 12, 0, 0, 0, time.UTC)

const token = "a-token-that-nobody-guesses"

// blocking is a limiter at noon, at whose gateway edge/main the addresses are blocked.
func blocking(t *testing.T, addresses ...string) *ratelimit.Limiter {
	t.Helper()
	g := v1alpha1.QuotaGateway{}
	g.Namespace, g.Name = "edge", "main"
	g.Spec.Identity.Sources = []v1alpha1.KeySource{{Header: "x-api-key"}}
	g.Spec.AbuseProtection = &v1alpha1.AbuseProtection{MaxFailures: 1}
	table, _ := policy.Compile(policy.Input{Gateways: []*v1alpha1.QuotaGateway{&g}})
	l := ratelimit.New(memory.New(), []byte("secret"),
		ratelimit.WithFailures(memory.NewFailures()), ratelimit.WithClock(func() time.Time { return noon }))
	l.SetTable(table)
	for _, address := range addresses {
		for range 2 {
			if _, err := l.Reserve(t.Context(), &descriptor.Reserve{Client: address, Gateway: "edge/main"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return l
}

func serve(t *testing.T, l admin.Service, token string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(admin.Handler(l, token))
	t.Cleanup(s.Close)
	return s
}

func client(t *testing.T, address, token string) *admin.Client {
	t.Helper()
	c, err := admin.NewClient(address, token)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestBlocksAreListedAndLifted(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]string{"without a token": "", "with a token": token} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := client(t, serve(t, blocking(t, "192.0.2.1", "192.0.2.2"), token).URL, token)
			blocks, err := c.Blocks(t.Context())
			if err != nil || len(blocks) != 2 {
				t.Fatalf("blocks %v, error %v, want two", blocks, err)
			}
			first := blocks[0]
			want := ratelimit.Block{
				ID: first.ID, Gateway: "edge/main", Kind: "Address", Name: "192.0.2.1", Since: noon, Until: noon.Add(30 * time.Second), Failures: 2,
			}
			if diff := cmp.Diff(want, first); diff != "" {
				t.Errorf("block (-want +got):\n%s", diff)
			}
			if err := c.Lift(t.Context(), first.ID); err != nil {
				t.Error(err)
			}
			if left, err := c.Blocks(t.Context()); err != nil || len(left) != 1 || left[0].Name != "192.0.2.2" {
				t.Errorf("blocks %v, error %v, want the other", left, err)
			}
			for id, says := range map[string]string{
				first.ID:   "No block of this id is in force; it may be over. GET /admin/blocks lists those that are.",
				"team/bob": `"team/bob" is no id of a block. GET /admin/blocks lists them.`,
			} {
				if err := c.Lift(t.Context(), id); err == nil || err.Error() != says {
					t.Errorf("lifting %s: %v, want %s", id, err, says)
				}
			}
		})
	}
}

func TestNobodyBlockedIsAnEmptyList(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/admin/blocks", http.NoBody)
	admin.Handler(blocking(t), "").ServeHTTP(w, r)
	if got := strings.TrimSpace(w.Body.String()); w.Code != http.StatusOK || got != `{"blocks":[]}` {
		t.Errorf("%d %s, want an empty list", w.Code, got)
	}
}

// Without a token only programs on the machine are answered: a page that a browser shows can ask addresses of loopback, and so
// can whoever names one as the backend of a gateway.
func TestWhoIsAnswered(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		token, host string
		header      []string
		want        int
	}{
		"a program":                       {"", "127.0.0.1:9000", nil, 200},
		"by name":                         {"", "localhost:9000", nil, 200},
		"by IPv6":                         {"", "[::1]:9000", nil, 200},
		"without a port":                  {"", "[::1]", nil, 200},
		"a name that leads here":          {"", "attacker.example:9000", nil, 403},
		"a name that begins like ours":    {"", "localhost.attacker.example", nil, 403},
		"another address":                 {"", "10.0.0.1:9000", nil, 403},
		"no name at all":                  {"", "", nil, 403},
		"a page":                          {"", "127.0.0.1:9000", []string{"Origin", "https://attacker.example"}, 403},
		"a page of nowhere":               {"", "127.0.0.1:9000", []string{"Origin", "null"}, 403},
		"a gateway":                       {"", "127.0.0.1:9000", []string{"X-Forwarded-Proto", "http"}, 403},
		"with the token":                  {token, "gateway.example", []string{"Authorization", "Bearer " + token}, 200},
		"with the token, through a proxy": {token, "gateway.example", []string{"Authorization", "Bearer " + token, "X-Forwarded-For", "10.0.0.1"}, 200},
		"without the token":               {token, "127.0.0.1:9000", nil, 401},
		"with half of the token":          {token, "127.0.0.1:9000", []string{"Authorization", "Bearer " + token[:10]}, 401},
		"with another scheme":             {token, "127.0.0.1:9000", []string{"Authorization", "Basic " + token}, 401},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, method := range []string{http.MethodGet, http.MethodDelete} {
				l := blocking(t, "192.0.2.1")
				blocks, err := l.Blocks(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				path, want := "/admin/blocks", tc.want
				if method == http.MethodDelete {
					path += "/" + blocks[0].ID
					if want == http.StatusOK {
						want = http.StatusNoContent
					}
				}
				r := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody)
				r.Host = tc.host
				for i := 0; i < len(tc.header); i += 2 {
					r.Header.Set(tc.header[i], tc.header[i+1])
				}
				w := httptest.NewRecorder()
				admin.Handler(l, tc.token).ServeHTTP(w, r)
				if w.Code != want {
					t.Errorf("%s: %d %s, want %d", method, w.Code, w.Body, want)
				}
				if w.Code >= 400 && (strings.Contains(w.Body.String(), token) || !strings.HasPrefix(w.Body.String(), `{"error":{"message":"`)) {
					t.Errorf("%s: %s", method, w.Body)
				}
			}
		})
	}
}

func TestAnAddressThatOthersReachNeedsAToken(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("0123456789abcde \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		address, file, want, says string
	}{
		"loopback":                   {"127.0.0.1:9000", "", "", ""},
		"loopback of IPv6":           {"[::1]:9000", "", "", ""},
		"localhost":                  {"localhost:0", "", "", ""},
		"every address":              {"0.0.0.0:9000", "", "", "other machines may reach 0.0.0.0:9000: name a file that holds a token, or choose an address of loopback"},
		"every address, not written": {":9000", "", "", "other machines may reach :9000: name a file that holds a token, or choose an address of loopback"},
		"a name":                     {"host.example:9000", "", "", "other machines may reach host.example:9000: name a file that holds a token, or choose an address of loopback"},
		"a token":                    {"0.0.0.0:9000", file, token, ""},
		"a token on loopback":        {"127.0.0.1:9000", file, token, ""},
		"a token that can be tried":  {"0.0.0.0:9000", short, "", "the token in " + short + " has 15 characters, and must have at least 16"},
		"no such file":               {"127.0.0.1:9000", file + "x", "", "reading the token: open " + file + "x: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := admin.Token(tc.address, tc.file)
			says := ""
			if err != nil {
				says = err.Error()
			}
			if got != tc.want || says != tc.says {
				t.Errorf("got %q and error %q, want %q and %q", got, says, tc.want, tc.says)
			}
		})
	}
}

func TestAClientSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "<html>")
	}))
	t.Cleanup(other.Close)
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"error":{"code":"unknown_url","message":"This gateway serves no such path and method."}}`)
	}))
	t.Cleanup(gateway.Close)
	locked := serve(t, blocking(t), token)
	for name, tc := range map[string]struct{ address, token, says string }{
		"a wrong token":      {locked.URL, "wrong", "The token is missing or wrong."},
		"no token":           {locked.URL, "", "The token is missing or wrong."},
		"an address of ours": {strings.TrimPrefix(locked.URL, "http://"), "", "The token is missing or wrong."},
		"a gateway":          {gateway.URL, "", `answers 404 Not Found, and may be no admin address: {"error":{"code":"unknown_url"`},
		"something else":     {other.URL, "", "answers 418 I'm a teapot, and may be no admin address: <html>"},
		"nobody":             {"http://127.0.0.1:1", "", `asking the service (it prints the address behind "Admin:" when it starts): `},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := client(t, tc.address, tc.token).Blocks(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %s", err, tc.says)
			}
		})
	}
	for _, address := range []string{"", "ftp://127.0.0.1", "http://", "://"} {
		if _, err := admin.NewClient(address, ""); err == nil {
			t.Errorf("%q was taken for an address", address)
		}
	}
}
