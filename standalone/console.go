package standalone

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/secret"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

// console tells people what was accepted, what was rejected and where to send requests. What did not change is not told
// again. It is safe for concurrent use.
type console struct {
	mu      sync.Mutex
	out     io.Writer
	told    map[string]bool // lines about what is wrong
	noted   map[string]bool // lines about what is hardly meant
	version string          // of the table told last
}

func newConsole(out io.Writer) *console { return &console{out: out, told: map[string]bool{}} }

func (c *console) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(c.out, format+"\n", args...)
}

// loaded tells what the manifests say. The secrets are nil where no Envoy is told anything.
func (c *console) loaded(path string, r *reading, s *secret.Keeper, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, verdicts, renewed := r.table, r.verdicts, s.Renewed()
	wrong := problems(t, s, &r.found, verdicts)
	accepted := 0
	for _, v := range verdicts {
		if v.Accepted() {
			accepted++
		}
	}
	if t.Version() != c.version || !c.toldAll(wrong) || len(renewed) > 0 {
		verb := "Loaded"
		if c.version != "" {
			verb = "Reloaded"
		}
		c.printf("%s %s: accepted %d, problems %d (version %s).", verb, path, accepted, len(wrong), t.Version())
	}
	if c.version == "" {
		for _, v := range verdicts {
			if v.Accepted() {
				c.printf("  accepted  %s  %s", r.found.Sources[v.Object], v.Object)
			}
		}
	}
	for _, name := range renewed {
		c.printf("  renewed   Secret %s", name)
	}
	told := map[string]bool{}
	for _, line := range wrong {
		told[line] = true
		if !c.told[line] {
			c.printf("  REJECTED  %s", line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(c.told)) {
		if !told[line] {
			c.printf("  resolved  %s", line)
		}
	}
	noted := map[string]bool{}
	for _, line := range notes(t, s, &r.found.Input, verdicts, now) {
		noted[line] = true
		if !c.noted[line] {
			c.printf("  NOTE      %s", line)
		}
	}
	c.told, c.noted, c.version = told, noted, t.Version()
}

func (c *console) toldAll(lines []string) bool {
	for _, l := range lines {
		if !c.told[l] {
			return false
		}
	}
	return len(lines) == len(c.told)
}

// problems words what is wrong: with files and objects as such first, then with what objects say together.
func problems(t *policy.Table, s *secret.Keeper, found *manifest.Result, verdicts []policy.Verdict) []string {
	var lines []string
	for _, p := range found.Problems {
		lines = append(lines, p.String())
	}
	for _, v := range verdicts {
		for _, p := range v.Problems {
			lines = append(lines, fmt.Sprintf("%s: %s: %s: %s: %s%s", found.Sources[v.Object], v.Object, p.Field, p.Reason, p.Message, goesOn(t, s, v.Object, p.Field)))
		}
	}
	return lines
}

// goesOn says that an object that is not accepted is in force all the same, or how far, by the field that is wrong.
func goesOn(t *policy.Table, s *secret.Keeper, o policy.Object, field string) string {
	switch o.Kind {
	case policy.KindQuota:
		if c, found := t.Quota(o.Name); found && c.Holder != nil {
			return " It keeps the limits it had."
		}
		return " Its keys are refused until this is mended."
	case policy.KindGateway:
		if s == nil {
			return ""
		}
		if g, found := t.Gateway(o.Name.String()); found {
			return goesWithout(g, s, field)
		}
	}
	return ""
}

// goesWithout says what a gateway makes of a Secret that is not in order. What else is wrong keeps all of it as it was.
func goesWithout(g *policy.Gateway, s *secret.Keeper, field string) string {
	for _, use := range g.Secrets() {
		switch {
		case !strings.HasPrefix(field, use.Field+"."):
		case s.Value(use.SecretValue) != nil:
			return " The last good one stays in use."
		case use.Purpose == policy.ForCertificate:
			return " The listener is not served, unless it has another certificate."
		default:
			return " Requests to the backend are answered 503."
		}
	}
	return " It goes on as it was."
}

func (c *console) rejected(r server.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.printf("  REJECTED by Envoy  QuotaGateway %s: %s: %s", r.Gateway, r.Kind, r.Err)
}

func (c *console) stopping() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.printf("Stopping.")
}

func (c *console) upstream(at string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.printf("Demo upstream: http://%s stands in for every backend; GET http://%s/demo tells its switches.", at, at)
}

func (c *console) metrics(at string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.printf("Metrics: http://%s/metrics", at)
}

func (c *console) admin(at string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.printf("Admin: http://%s (tierkeeper usage, blocks and shadow ask there, by --admin http://%s)", at, at)
}

func (c *console) bootstrap(g *policy.Gateway, path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.printf("Gateway %s: start its Envoy with: envoy -c %s --disable-hot-restart", g.Name, path)
}

// shares tells where the rate-limit service counts together with others.
func (c *console) shares(store fmt.Stringer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.printf("Counts in Redis at %s.", store)
}

// limits tells where the rate-limit service is, and how to use it.
func (c *console) limits(at string, manifests string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.printf("The rate-limit service listens on %s. Serve with it by: tierkeeper standalone --manifests %s --service %s", at, manifests, at)
	c.printf("Edit a file in %s and the next request obeys. Ctrl-C stops.", manifests)
}

// answers tells where the rate-limit service of a cluster is.
func (c *console) answers(at, operator string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.printf("The rate-limit service asks the operator at %s, and answers Envoys on %s.", operator, at)
}

// serving tells where to send requests, and how.
func (c *console) serving(g *policy.Gateway, d door, config *Config, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !first {
		c.printf("Gateway %s serves %s again.", g.Name, d.url())
		return
	}
	c.printf("Gateway %s serves %s. Try:", g.Name, d.url())
	for _, line := range curlLines(g, d, orKey(config.ExampleKey)) {
		c.printf("\n  %s", line)
	}
	if config.ExampleKey == "" {
		c.printf("\n  with KEY set to an API key of one of your ApiKeyQuotas.")
	}
	c.printf("\nEdit a file in %s and the next request obeys. Ctrl-C stops.", config.Manifests)
}

// A door is where requests come in.
type door struct {
	scheme   string
	address  string // host:port
	hostname string // that requests must ask for; empty: any
}

func (d door) url() string { return d.scheme + "://" + d.address }

// curl is a request to a path as far as the URL, of which the path is still open. curl must know a host name that need not be
// in any DNS.
func (d door) curl() (command, url string) {
	if d.hostname == "" {
		return "curl -i", d.url()
	}
	name := strings.Replace(d.hostname, "*.", "any.", 1)
	host, port, _ := net.SplitHostPort(d.address)
	return "curl -i --resolve " + name + ":" + port + ":" + host, d.scheme + "://" + name + ":" + port
}

// examples are what a smallest request of each protocol has behind the URL and the key.
var examples = []struct {
	protocol policy.Protocol
	rest     string
}{
	{policy.OpenAIChat, asJSON(`{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}`)},
	{policy.OpenAICompletions, asJSON(`{"model":"gpt-3.5-turbo-instruct","prompt":"Hello"}`)},
	{policy.OpenAIResponses, asJSON(`{"model":"gpt-4o","input":"Hello"}`)},
	{policy.Anthropic, asJSON(`{"model":"claude-3-5-sonnet-20241022","max_tokens":64,"messages":[{"role":"user","content":"Hello"}]}`)},
	{policy.Gemini, asJSON(`{"contents":[{"parts":[{"text":"Hello"}]}]}`)},
	{policy.OpenAIEmbeddings, asJSON(`{"model":"text-embedding-3-small","input":"Hello"}`)},
	{policy.OpenAIImages, asJSON(`{"model":"gpt-image-1","prompt":"A fox"}`)},
	{policy.OpenAITranscriptions, "-F file=@speech.mp3 -F model=whisper-1"},
	{policy.JSONBody, asJSON(`{"model":"tts-1","voice":"alloy","input":"Hello"}`)},
	{policy.Opaque, asJSON("{}")},
}

func asJSON(body string) string { return `-H "content-type: application/json" -d '` + body + "'" }

// curlLines is one line for the first route of each protocol that counts something.
func curlLines(g *policy.Gateway, d door, key string) []string {
	var lines []string
	for _, e := range examples {
		fits := func(r policy.Route) bool { return r.Protocol == e.protocol && !r.Unmetered && r.PathPrefix == "" }
		if i := slices.IndexFunc(g.Routes, fits); i >= 0 {
			lines = append(lines, curlLine(g.Sources[0], g.Routes[i], d, key, e.rest))
		}
	}
	return lines
}

func curlLine(s policy.KeySource, r policy.Route, d door, key, rest string) string {
	command, target := d.curl()
	parts := []string{command}
	if r.Method != "" && r.Method != http.MethodPost {
		parts = append(parts, "-X "+r.Method)
	}
	target += r.Path
	if r.Protocol == policy.Gemini {
		target += "/gemini-1.5-pro:generateContent"
	}
	if s.Header == "" {
		target += "?" + s.Query + "=" + key
	}
	parts = append(parts, `"`+target+`"`)
	if s.Header != "" {
		parts = append(parts, fmt.Sprintf(`-H "%s: %s%s"`, s.Header, s.Prefix, key))
	}
	if r.Method == "" || r.Method == http.MethodPost {
		parts = append(parts, rest)
	}
	return strings.Join(parts, " ")
}

func orKey(key string) string {
	if key == "" {
		return "$KEY"
	}
	return key
}
