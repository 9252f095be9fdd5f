package memory_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/tierkeeper/tierkeeper/counter/memory"
)

// TestLoadRefuses wants an error that names the file and says what to do, and that what it says helps.
func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	const newer, damaged = "a newer tierkeeper wrote it", "it is damaged"
	put := func(key, value string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			edit(t, path, func(b *bbolt.Bucket) error { return b.Put([]byte(key), []byte(value)) })
		}
	}
	some := key(1)
	for name, test := range map[string]struct {
		spoil func(*testing.T, string)
		want  string
	}{
		"a value of a newer version": {put(string(some[:]), "\x03 of another length"), newer},
		"a file of a newer layout": {func(t *testing.T, path string) {
			t.Helper()
			edit(t, path, func(b *bbolt.Bucket) error { return b.Tx().Bucket([]byte("meta")).Put([]byte("layout"), []byte{2}) })
		}, newer},
		"a value that is none":         {put(string(some[:]), "\x01"), damaged},
		"another that is none":         {put(string(some[:]), "\x02"), damaged},
		"a key that is none":           {put("short", "\x01"), damaged},
		"a text":                       {rewrite(func([]byte) []byte { return []byte(strings.Repeat("counters: none\n", 1000)) }), damaged},
		"a short text":                 {rewrite(func([]byte) []byte { return []byte("counters: none\n") }), damaged},
		"a file cut short":             {rewrite(func(b []byte) []byte { return b[:len(b)/2] }), damaged},
		"a file cut short to its head": {rewrite(func(b []byte) []byte { return b[:3*os.Getpagesize()] }), damaged},
		"a file without its head":      {rewrite(func(b []byte) []byte { return blank(b, 0, 2) }), damaged},
		"a file with a head only":      {rewrite(func(b []byte) []byte { return blank(b, 2, len(b)/os.Getpagesize()) }), damaged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := newPath(t)
			fill(t, path)
			test.spoil(t, path)
			_, err := memory.Load(path, noon)
			if err == nil {
				t.Fatalf("Load succeeds")
			}
			for _, want := range []string{path, test.want, "move it away to start with empty counters"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if err := os.Rename(path, path+".old"); err != nil {
				t.Fatal(err)
			}
			load(t, path, noon)
		})
	}
}

// fill writes a file of many pages.
func fill(t *testing.T, path string) {
	t.Helper()
	store := load(t, path, noon)
	for n := range uint64(1000) {
		limits := independent(n, 10)
		acquire(t, store.Open(limits), noon, limits)
	}
	stop(t, store, noon)
}

func rewrite(change func([]byte) []byte) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, change(content(t, path)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// blank overwrites pages with zeroes.
func blank(b []byte, from, to int) []byte {
	clear(b[from*os.Getpagesize() : to*os.Getpagesize()])
	return b
}

func TestLoadNeedsTheFolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "missing", "counters.db")
	_, err := memory.Load(path, noon)
	if !errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), "damaged") {
		t.Errorf("error is %v", err)
	}
}
