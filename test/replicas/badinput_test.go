package replicas_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
	"github.com/tierkeeper/tierkeeper/internal/port"
	"github.com/tierkeeper/tierkeeper/internal/testca"
)

// TestAStartOnARedisThatCannotBeUsedSaysWhatToDo runs the program until it ends: with 1, and one line that names what is wrong.
func TestAStartOnARedisThatCannotBeUsedSaysWhatToDo(t *testing.T) {
	t.Parallel()
	const right, wrong = "the-right-password", "a-wrong-password"
	closed := redistest.Start(t, "--requirepass", right)
	open := redistest.Start(t)
	open.Do("set", "newer:layout", "9")
	open.Do("lpush", "list:layout", "9")
	sentinel := redistest.StartSentinels(t, 1, open, time.Minute)[0]
	ca := testca.New(t, "authority")
	mount := testca.NewMount(t, ca.PEM, ca.Issue(t, "redis"))
	secured := redistest.StartTLS(t, mount.Cert(), mount.Key(), mount.CA(), "--tls-auth-clients", "no")
	open.Do("acl", "setuser", "reader", "on", "nopass", "~*", "+@all", "-@scripting")
	for name, tc := range map[string]struct {
		flags []string
		want  []string // in the line
	}{
		"a wrong password": {
			[]string{on(closed.Addr), "--redis-password-file", write(t, "password", wrong+"\n")}, []string{closed.Addr, "it refuses the user or the password"},
		},
		"no password":      {[]string{on(closed.Addr)}, []string{closed.Addr, "it asks for a password"}},
		"an unknown user":  {[]string{on(open.Addr), "--redis-username", "nobody", "--redis-password-file", write(t, "password", wrong)}, []string{open.Addr, "it refuses the user"}},
		"no scripts":       {[]string{on(open.Addr), "--redis-username", "reader"}, []string{open.Addr, "may not run scripts"}},
		"no password file": {[]string{on(open.Addr), "--redis-password-file", "/nowhere/password"}, []string{"/nowhere/password"}},
		"a web server":     {[]string{on(answering(t, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))}, []string{"it is no Redis"}},
		"somebody silent":  {[]string{on(answering(t, ""))}, []string{"does not answer"}},
		"nobody":           {[]string{on("127.0.0.1:" + strconv.Itoa(port.Reserve(t)))}, []string{"connecting to Redis at", "connection refused"}},
		"no sentinel":      {[]string{on(open.Addr), "--redis-sentinel-master", "main"}, []string{open.Addr, "it is no sentinel"}},
		"another master":   {[]string{on(sentinel.Addr), "--redis-sentinel-master", "other"}, []string{sentinel.Addr, `watch nothing that is called "other"`}},
		"a sentinel":       {[]string{on(sentinel.Addr)}, []string{sentinel.Addr, "it is a sentinel"}},
		"nothing but TLS":  {[]string{on(secured.Addr)}, []string{secured.Addr, "speaks nothing but TLS"}},
		"unknown TLS":      {[]string{on(secured.Addr), "--redis-tls"}, []string{secured.Addr, "check the authorities"}},
		"another's TLS":    {[]string{on(secured.Addr), "--redis-tls", "--redis-ca", mount.CA()}, []string{secured.Addr, "for the host by which Redis is named"}},
		"no TLS there":     {[]string{on(open.Addr), "--redis-tls"}, []string{open.Addr, "does it speak TLS"}},
		"no cluster":       {[]string{on(open.Addr), "--redis-cluster"}, []string{open.Addr, "not a cluster"}},
		"a newer layout":   {[]string{on(open.Addr), "--redis-prefix", "newer"}, []string{"newer:layout", `"9"`, "another prefix"}},
		"no layout":        {[]string{on(open.Addr), "--redis-prefix", "list"}, []string{"list:layout", "another prefix"}},
		"an old release":   {[]string{on(aged(t, open.Addr))}, []string{"its version is", "6.2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := prepare(t, troubled, tc.flags...)
			p := x.launch(t)
			var exit *exec.ExitError
			if err := p.Result(t); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("it ended with %v, want exit code 1", err)
			}
			said := strings.TrimSpace(p.Stderr.String())
			for _, want := range tc.want {
				if !strings.Contains(said, want) {
					t.Errorf("it does not say %q", want)
				}
			}
			if strings.Contains(said, "\n") || strings.Contains(said+p.Stdout.String(), wrong) {
				t.Error("it says more than one line, or the password")
			}
			t.Log(said)
		})
	}
}

// answering is the address of a server that says one thing to everybody.
func answering(t *testing.T, what string) string {
	t.Helper()
	return serve(t, func(c net.Conn) {
		_, _ = bufio.NewReader(c).ReadString('\n')
		if what == "" {
			_, _ = io.Copy(io.Discard, c)
		}
		_, _ = io.WriteString(c, what)
	})
}

// aged is the address of a Redis that says of itself that it is an old one.
func aged(t *testing.T, address string) string {
	t.Helper()
	version := regexp.MustCompile(`redis_version:[0-9.]+`)
	return serve(t, func(c net.Conn) {
		to, err := net.Dial("tcp", address) //nolint:noctx // It does not wait.
		if err != nil {
			return
		}
		defer func() { _ = to.Close() }()
		go func() { _, _ = io.Copy(to, c) }()
		buffer := make([]byte, 1<<16)
		for {
			n, err := to.Read(buffer)
			_, _ = c.Write(version.ReplaceAllFunc(buffer[:n], func(was []byte) []byte {
				return append([]byte("redis_version:5.0"), bytes.Repeat([]byte("0"), len(was)-len("redis_version:5.0"))...)
			}))
			if err != nil {
				return
			}
		}
	})
}

func serve(t *testing.T, conversation func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // It does not wait.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				conversation(c)
			}()
		}
	}()
	return l.Addr().String()
}

func TestARedisThatMayEvictIsWarnedOf(t *testing.T) {
	t.Parallel()
	x := prepare(t, troubled, on(redistest.Start(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru").Addr))
	r := x.start(t)
	eventually(t, soon, "it says what to do about a Redis that may evict", func() bool {
		said := r.Stderr.String()
		return strings.Contains(said, "maxmemory-policy") && strings.Contains(said, "noeviction")
	})
}

// TestWhatOthersWroteUnderOurNamesIsLeftAsItIs has somebody overwrite a counter: requests that need it are answered without the store,
// until that is mended.
func TestWhatOthersWroteUnderOurNamesIsLeftAsItIs(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		command []string // and the key after its first word
		said    string
	}{
		"a list":                    {[]string{"lpush", "other"}, "WRONGTYPE"},
		"a text":                    {[]string{"set", "other"}, "not a counter of this layout"},
		"a value of a newer layout": {[]string{"set", "\x02aaaaaaaabbbb"}, "not a counter of this layout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			x := prepare(t, troubled, on(server.Addr), patient)
			r := x.start(t)
			q := request{holder: tight, model: general}
			r.reserve(t, q)
			key := server.Do("--scan", "--pattern", counters)
			if strings.Contains(key, "\n") {
				t.Fatalf("there are several counters: %s", key)
			}
			server.Do("del", key)
			server.Do(tc.command[0], key, tc.command[1])
			for range 50 {
				if _, ok := r.reserve(t, q); !ok {
					t.Error("a request is refused, though much remains")
				}
			}
			eventually(t, soon, fmt.Sprintf("it names the key %s and says %q", key, tc.said), func() bool {
				said := r.Stderr.String()
				return strings.Contains(said, tc.said) && strings.Contains(said, key)
			})
			if r.meter(t, "tierkeeper_store_outages_total") != 0 {
				t.Error("it takes the store for out, though that answers all others")
			}
			server.Do("del", key)
			eventually(t, soon, "what was counted meanwhile is charged", func() bool { return x.used(t, tight)["Key/Requests/Day"] == 50 })
		})
	}
}
