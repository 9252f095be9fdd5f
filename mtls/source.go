package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
)

// material is what the files hold together.
type material struct {
	pair            tls.Certificate
	pool            *x509.CertPool
	cert, key, root string // as they were read
}

// A source has the last good material of the files.
type source struct {
	files Files
	log   *slog.Logger

	mu        sync.Mutex
	good      *material
	seen      stamp  // of the files as they were read last, good or not
	complaint string // that was told last
}

// A stamp is what tells that the files are not those that were read: nil of one that is not there.
type stamp [3]os.FileInfo

// stamp must be taken before the files are read: one that changes meanwhile is then read again.
func (f Files) stamp() (s stamp) {
	for i, path := range []string{f.Cert, f.Key, f.CA} {
		if info, err := os.Stat(path); err == nil {
			s[i] = info
		}
	}
	return s
}

// same is false where a file is not there, so that it is looked for again.
func (s stamp) same(other stamp) bool {
	for i, a := range s {
		b := other[i]
		if a == nil || b == nil || !os.SameFile(a, b) || a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime()) {
			return false
		}
	}
	return true
}

func newSource(f Files, log *slog.Logger) (*source, error) {
	seen := f.stamp()
	good, err := f.read()
	if err != nil {
		return nil, err
	}
	return &source{files: f, log: log, good: good, seen: seen}, nil
}

// now reads the files anew if they have changed. Who comes without a certificate can begin as many handshakes as it likes, so one
// must not cost more than a look at the files.
func (s *source) now() *material {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.files.stamp()
	if found.same(s.seen) {
		return s.good
	}
	s.seen = found
	read, err := s.files.read()
	switch {
	case err != nil && err.Error() != s.complaint:
		s.complaint = err.Error()
		s.log.Warn("certificates cannot be renewed; those before stay in use", "error", err)
	case err == nil:
		if read.cert != s.good.cert || read.key != s.good.key || read.root != s.good.root {
			s.log.Info("certificates are renewed", "certificate", s.files.Cert)
		}
		s.good, s.complaint = read, ""
	}
	return s.good
}

// read takes all files or none: a certificate without its key, or half of a file, can be read while they are written.
func (f Files) read() (*material, error) {
	m := &material{}
	for _, file := range []struct {
		flag, path string
		content    *string
	}{{"--cert", f.Cert, &m.cert}, {"--key", f.Key, &m.key}, {"--ca", f.CA, &m.root}} {
		content, err := os.ReadFile(file.path)
		if err != nil {
			return nil, fmt.Errorf("reading the file of %s: %w", file.flag, err)
		}
		*file.content = string(content)
	}
	if _, err := certificates(m.cert); err != nil {
		return nil, fmt.Errorf("reading %s, the file of --cert: %w", f.Cert, err)
	}
	var err error
	if m.pair, err = tls.X509KeyPair([]byte(m.cert), []byte(m.key)); err != nil {
		return nil, fmt.Errorf("reading %s and %s, the files of --cert and --key: %w", f.Cert, f.Key, err)
	}
	authorities, err := certificates(m.root)
	if err != nil {
		return nil, fmt.Errorf("reading %s, the file of --ca: %w", f.CA, err)
	}
	m.pool = x509.NewCertPool()
	for _, c := range authorities {
		m.pool.AddCert(c)
	}
	return m, nil
}

// certificates reads all of a file, other than package tls, which takes what it can read.
func certificates(text string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if strings.Contains(string(rest), "-----BEGIN") {
				return nil, errors.New("it ends in the middle of a certificate")
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("it holds something that is no certificate")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading certificate %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("it holds no certificate in PEM")
	}
	return all, nil
}
