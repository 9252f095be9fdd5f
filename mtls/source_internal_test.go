package mtls

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tierkeeper/tierkeeper/internal/testca"
)

func write(t *testing.T, path, content string, at time.Time) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil { //nolint:gosec // G703: it is the test's own.
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// Each file is written in its place, as by a tool that knows no better.
func TestFilesAreReadAgainOnlyWhenTheyChange(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "ours")
	pair, dir := ca.Issue(t, "xds"), t.TempDir()
	files := Files{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	write(t, files.Cert, pair.Cert, began)
	write(t, files.Key, pair.Key, began)
	write(t, files.CA, ca.PEM, began)
	s, err := newSource(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	first := s.now()
	if s.now() != first {
		t.Error("files that did not change are read again")
	}
	for name, path := range map[string]string{"the certificate": files.Cert, "the key": files.Key, "the CA": files.CA} {
		before := s.now()
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, string(content), began.Add(time.Second))
		if s.now() == before {
			t.Errorf("%s has another time and is not read again", name)
		}
		before = s.now()
		write(t, path, string(content)+"\n", began.Add(time.Second))
		if s.now() == before {
			t.Errorf("%s has another size and is not read again", name)
		}
		before = s.now()
		write(t, path+".new", string(content)+"\n", began.Add(time.Second))
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		if s.now() == before {
			t.Errorf("%s is another file and is not read again", name)
		}
		before = s.now()
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if s.now() != before {
			t.Errorf("without %s the last good is gone", name)
		}
		write(t, path, "nonsense", began)
		if s.now() != before {
			t.Errorf("after nonsense in %s the last good is gone", name)
		}
		write(t, path, string(content), began)
		if s.now() == before {
			t.Errorf("%s is mended and not read again", name)
		}
	}
}
