package envoy_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The document for callers is a promise. What it shows is run as a reader would run it: commands by sh, programs by their
// language, all but the address as they stand there.
const (
	callersDoc    = "../../docs/callers.md"
	callersSample = "every-answer"
	callersURL    = "http://127.0.0.1:8080"
)

// An example is a block of the document: commands and their answers, or a program and, in comments, what it prints.
type example struct {
	language string
	line     int // of the document
	text     string
}

func (e *example) name() string { return fmt.Sprintf("%s of line %d", e.language, e.line) }

// examples are the blocks of the document in the given languages.
func examples(t *testing.T, languages ...string) []example {
	t.Helper()
	doc, err := os.ReadFile(callersDoc)
	if err != nil {
		t.Fatal(err)
	}
	var all []example
	var open *example
	for i, line := range strings.Split(string(doc), "\n") {
		language, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && open == nil:
			open = &example{language: language, line: i + 1}
		case fence:
			if slices.Contains(languages, open.language) {
				all = append(all, *open)
			}
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	for _, language := range languages {
		if !slices.ContainsFunc(all, func(e example) bool { return e.language == language }) {
			t.Fatalf("%s has no example in %s", callersDoc, language)
		}
	}
	return all
}

func TestTheCallersDocShowsWhatHappens(t *testing.T) {
	t.Parallel()
	s := start(t, sample(t, callersSample))
	needCurl(t)
	for _, e := range examples(t, "console") {
		t.Run(e.name(), func(t *testing.T) {
			awaitRoomInTheMinute(t)
			for _, c := range commands(e.text) {
				c.check(t, s.runCommand(t, c.line))
			}
		})
	}
}

func TestSDKsDoWhatTheCallersDocSays(t *testing.T) {
	t.Parallel()
	s := startForSDKs(t, sample(t, callersSample))
	for _, e := range examples(t, "python", "js") {
		t.Run(e.name(), func(t *testing.T) {
			t.Parallel()
			awaitRoomInTheMinute(t)
			want, got := printed(t, e.text), s.runProgram(t, e)
			if !make(volatile).matches(want, got) {
				t.Errorf("it prints\n%s\nbut the document says\n%s", got, want)
			}
		})
	}
}

// needCurl is for what a person would type. Without curl the test is skipped, or fails where nothing may be skipped.
func needCurl(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("curl")
	switch {
	case err == nil:
	case os.Getenv("REQUIRE_ENVOY") == "1":
		t.Fatal("The examples for callers are lines for curl, and no curl is on the PATH: install it first.")
	default:
		t.Skip("This test needs curl.")
	}
}

// awaitRoomInTheMinute lets an example that uses a minute's limit up happen within one minute.
func awaitRoomInTheMinute(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "the next minute begins", func() bool { return time.Now().Second() < 20 })
}

// A command is what stands behind "$ ", with the lines that it goes on in, and the answer below it.
type command struct{ line, want string }

// commands reads a console. A command goes on while sh would ask for more: a backslash at the end, or indented lines.
func commands(text string) []command {
	var all []command
	more := false
	for line := range strings.Lines(text) {
		if first, begins := strings.CutPrefix(line, "$ "); begins {
			all, more = append(all, command{line: first}), true
			continue
		}
		last := &all[len(all)-1]
		if more = more && (strings.HasPrefix(line, "  ") || strings.HasSuffix(last.line, "\\\n")); more {
			last.line += line
		} else {
			last.want += line
		}
	}
	return all
}

// runCommand is what sh writes to standard output. What is under way longer than in the document is surely seen by who comes after it.
func (s *system) runCommand(t *testing.T, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answerMost)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", strings.NewReplacer(callersURL, s.port.url(), "x-demo-delay: 2s", "x-demo-delay: 5s").Replace(line))
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "NO_PROXY=*", "no_proxy=*", "HOME="+cmd.Dir) // no settings of curl but those of the line
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v\n%s", line, err, stderr.String())
	}
	return string(out)
}

// told are the headers that an answer in the document does not leave out: they say what to do.
var told = []string{"Retry-After", "X-Should-Retry"}

// check compares an answer with what the document says: the status and body as they are, and the headers that it shows.
func (c *command) check(t *testing.T, got string) {
	t.Helper()
	v := make(volatile)
	wantHead, wantBody, isHTTP := strings.Cut(c.want, "\n\n")
	if !strings.HasPrefix(wantHead, "HTTP/") || !isHTTP {
		if !v.matches(strings.TrimSpace(c.want), strings.TrimSpace(got)) {
			t.Errorf("%s\nis answered\n%s\nbut the document says\n%s", c.line, got, c.want)
		}
		return
	}
	head, body, _ := strings.Cut(strings.ReplaceAll(got, "\r\n", "\n"), "\n\n")
	wantStatus, want := headersOf(wantHead)
	status, headers := headersOf(head)
	if status != wantStatus {
		t.Errorf("%s\nis answered %s, but the document says %s\n%s", c.line, status, wantStatus, body)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if value := strings.Join(headers[name], ", "); !v.matches(want.Get(name), value) {
			t.Errorf("%s\nis answered %s: %q, but the document says %q", c.line, name, value, want.Get(name))
		}
	}
	for _, name := range told {
		if value := headers.Get(name); value != "" && want.Get(name) == "" {
			t.Errorf("%s\nis answered %s: %s, which the document leaves out", c.line, name, value)
		}
	}
	if !v.matches(strings.TrimSpace(wantBody), strings.TrimSpace(body)) {
		t.Errorf("%s\nis answered\n%s\nbut the document says\n%s", c.line, body, wantBody)
	}
}

// headersOf reads what stands before a body.
func headersOf(head string) (status string, headers http.Header) {
	status, lines, _ := strings.Cut(head, "\n")
	headers = http.Header{}
	for line := range strings.Lines(lines) {
		name, value, _ := strings.Cut(line, ":")
		headers.Add(textproto.TrimString(name), textproto.TrimString(value))
	}
	return status, headers
}

// volatile is what the values that differ from call to call stand for in one answer, by what stands for them in the document.
type volatile map[string]string

var volatileMarks = regexp.MustCompile(`…|‹[^›]*›`)

// matches compares text with what the document says. There … stands for anything, ‹9› for any number, ‹a› for any word, and
// the same twice for the same twice.
func (v volatile) matches(want, got string) bool {
	pattern, rest := `(?s)^`, want
	var names []string
	for _, mark := range volatileMarks.FindAllString(want, -1) {
		before, after, _ := strings.Cut(rest, mark)
		pattern, rest = pattern+regexp.QuoteMeta(before), after
		switch name := strings.Trim(mark, "‹›"); {
		case mark == "…":
			pattern += `.*?`
		case strings.Trim(name, "0123456789") == "":
			pattern, names = pattern+`(\d+)`, append(names, name)
		default:
			pattern, names = pattern+`([^"\s]+)`, append(names, name)
		}
	}
	values := regexp.MustCompile(pattern + regexp.QuoteMeta(rest) + `$`).FindStringSubmatch(got)
	if values == nil {
		return false
	}
	for i, name := range names {
		if before, seen := v[name]; seen && before != values[i+1] {
			return false
		}
		v[name] = values[i+1]
	}
	return true
}

var prints = regexp.MustCompile(`(?m)^ *(?:print|console\.log)\(.*$`)

// printed is what a program says that it prints: a line for each comment behind a print.
func printed(t *testing.T, program string) string {
	t.Helper()
	var lines []string
	for _, line := range prints.FindAllString(program, -1) {
		says := regexp.MustCompile(`\);? +(?:#|//) (.*)$`).FindStringSubmatch(line)
		if says == nil {
			t.Fatalf("%s does not say in a comment what it prints", line)
		}
		lines = append(lines, says[1])
	}
	return strings.Join(lines, "\n")
}

// runProgram is what a program that uses the providers' libraries prints.
func (s *system) runProgram(t *testing.T, e example) string {
	t.Helper()
	dir, libraries := t.TempDir(), installed(t)
	argv := map[string][]string{"python": {"python3", "-S", "example.py"}, "js": {"node", "example.mjs"}}[e.language]
	program := strings.ReplaceAll(e.text, callersURL, s.port.url())
	if err := os.WriteFile(filepath.Join(dir, argv[len(argv)-1]), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	// Modules of this kind are looked for beside the program, and nowhere else.
	if err := os.Symlink(filepath.Join(libraries, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), callsMost)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, environment(libraries)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}
