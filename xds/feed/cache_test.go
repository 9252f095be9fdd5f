package feed_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tierkeeper/tierkeeper/xds/feed"
)

// TestAFileThatCannotBeReadIsPutAside wants the service to start without it, to say so, and to write a new one.
func TestAFileThatCannotBeReadIsPutAside(t *testing.T) {
	t.Parallel()
	const damaged, newer = "damaged", "a newer tierkeeper wrote it"
	for name, tc := range map[string]struct {
		spoil func(*testing.T, string)
		want  string
	}{
		"a file of a newer layout": {edit(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("layout"), []byte{2}) }), newer},
		"a byte that has changed": {edit(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("resources"))
			name, v := b.Cursor().First()
			v = bytes.Clone(v)
			v[len(v)-1]++
			return b.Put(name, v)
		}), damaged},
		"a value without a sum":   {edit(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("resources")).Put([]byte(app), []byte("short")) }), damaged},
		"a text":                  {rewrite(func([]byte) []byte { return []byte(strings.Repeat("policy: none\n", 1000)) }), "invalid database"},
		"a file cut short":        {rewrite(func(b []byte) []byte { return b[:len(b)/2] }), ""},
		"a file without a head":   {rewrite(func(b []byte) []byte { clear(b[:2*os.Getpagesize()]); return b }), "invalid database"},
		"a file with a head only": {rewrite(func(b []byte) []byte { clear(b[2*os.Getpagesize():]); return b }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, path := newBell(), filepath.Join(t.TempDir(), "policy.db")
			o := start(t, b)
			table := compile(customers(1000))
			o.Publish(table, 1)
			f := follow(t, b, o.config("service-0", path))
			f.wait(t, "the client is up", func() bool { return f.status() == feed.Status{Table: true} })
			f.stop()
			o.told()
			tc.spoil(t, path)

			var log logbook
			c := o.config("service-0", path)
			c.Log = log.log()
			f = follow(t, b, c)
			f.wait(t, "the client is up", func() bool { return f.status() == feed.Status{Table: true} })
			f.holds(t, table)
			if set, _ := o.told(); len(set) != 1002 {
				t.Errorf("%d resources were told, want all 1002", len(set))
			}
			if !log.has("cannot be read and is put aside") || !log.has(tc.want) {
				t.Errorf("the log does not say %q: %s", tc.want, log.lines.String())
			}
			if _, err := os.Stat(path + ".unreadable"); err != nil {
				t.Error(err)
			}
			f.stop()
			again := follow(t, b, o.config("service-0", path))
			again.wait(t, "the client is up", func() bool { return again.status() == feed.Status{Table: true} })
			if set, _ := o.told(); len(set) > 0 {
				t.Errorf("with a new file %d resources were told", len(set))
			}
		})
	}
}

// TestAFileThatWasNotFinishedHoldsNoTable makes one as a crash leaves it while the first Table is written, which takes several
// steps. What is in it need not be told again.
func TestAFileThatWasNotFinishedHoldsNoTable(t *testing.T) {
	t.Parallel()
	b, path := newBell(), filepath.Join(t.TempDir(), "policy.db")
	o := start(t, b)
	table := compile(customers(6000))
	o.Publish(table, 1)
	f := follow(t, b, o.config("service-0", path))
	f.wait(t, "the client is up", func() bool { return f.status() == feed.Status{Table: true} })
	f.stop()
	o.stop()
	var lost []string
	edit(func(tx *bbolt.Tx) error {
		resources := tx.Bucket([]byte("resources"))
		if err := resources.ForEach(func(name, _ []byte) error { lost = append(lost, string(name)); return nil }); err != nil {
			return err
		}
		lost = lost[5000:]
		for _, name := range lost {
			if err := resources.Delete([]byte(name)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte("meta")).Delete([]byte("version"))
	})(t, path)

	o = startAt(t, b, o.address)
	f = follow(t, b, o.config("service-0", path))
	o.wait(t, "the client is there", func() bool { return len(o.Clients()) == 1 })
	if f.table() != nil {
		t.Error("a part of a table is in force")
	}
	o.Publish(table, 2)
	o.waitFor(t, "service-0", 2)
	f.holds(t, table)
	if set, _ := o.told(); !slices.Equal(lost, set) {
		t.Errorf("%d resources were told, want the %d that were lost", len(set), len(lost))
	}
}

func edit(change func(*bbolt.Tx) error) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(change); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

func rewrite(change func([]byte) []byte) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, change(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAFileThatCannotBeHadIsLeftAlone gives the file to another client, and names one where there is no folder.
func TestAFileThatCannotBeHadIsLeftAlone(t *testing.T) {
	t.Parallel()
	b, dir := newBell(), t.TempDir()
	o := start(t, b)
	table := compile(customers(10))
	o.Publish(table, 1)
	taken := filepath.Join(dir, "policy.db")
	first := follow(t, b, o.config("service-0", taken))
	first.wait(t, "the first client is up", func() bool { return first.status() == feed.Status{Table: true} })
	for node, path := range map[string]string{"service-1": taken, "service-2": filepath.Join(dir, "missing", "policy.db")} {
		var log logbook
		c := o.config(node, path)
		c.Log = log.log()
		f := follow(t, b, c)
		o.waitFor(t, node, 1)
		f.holds(t, table)
		if !log.has("the policy is not kept across restarts: the file cannot be opened") {
			t.Errorf("the log says %s", log.lines.String())
		}
		if _, err := os.Stat(path + ".unreadable"); err == nil {
			t.Error("the file was put aside")
		}
	}
}

// TestTheFileHoldsDigestsOnly looks for a key in everything that was written.
func TestTheFileHoldsDigestsOnly(t *testing.T) {
	t.Parallel()
	b, path := newBell(), filepath.Join(t.TempDir(), "policy.db")
	o := start(t, b)
	o.Publish(examples()["a-table-shows-digests-and-no-keys"], 1)
	f := follow(t, b, o.config("service-0", path))
	f.wait(t, "the client is up", func() bool { return f.status() == feed.Status{Table: true} })
	f.stop()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, []byte("sk-")) {
		t.Error("the file holds a key")
	}
}
