package testca

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// The names of a mount's files.
const (
	certFile = "tls.crt"
	keyFile  = "tls.key"
	caFile   = "ca.crt"
)

// A Mount is a directory of certificates as Kubernetes mounts a Secret: its files are links into a directory that is a link.
type Mount struct {
	dir     string
	version int
}

// NewMount mounts a pair, and the authorities that the other end's may come from, in PEM.
func NewMount(t testing.TB, authorities string, pair Pair) *Mount {
	t.Helper()
	m := &Mount{dir: t.TempDir()}
	m.Rotate(t, authorities, pair)
	for _, name := range []string{certFile, keyFile, caFile} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(m.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// Rotate changes all files at one stroke.
func (m *Mount) Rotate(t testing.TB, authorities string, pair Pair) {
	t.Helper()
	m.version++
	next := "..version-" + strconv.Itoa(m.version)
	if err := os.Mkdir(filepath.Join(m.dir, next), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{certFile: pair.Cert, keyFile: pair.Key, caFile: authorities} {
		if err := os.WriteFile(filepath.Join(m.dir, next, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(m.dir, "..data_tmp")
	if err := os.Symlink(next, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link, filepath.Join(m.dir, "..data")); err != nil {
		t.Fatal(err)
	}
}

// Cert is the path of the certificate.
func (m *Mount) Cert() string { return filepath.Join(m.dir, certFile) }

// Key is the path of its private key.
func (m *Mount) Key() string { return filepath.Join(m.dir, keyFile) }

// CA is the path of the authorities.
func (m *Mount) CA() string { return filepath.Join(m.dir, caFile) }
