package standalone

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"slices"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

// secrets is what the Secrets that gateways name hold, or held when they were last in order: a certificate or a key at a
// provider that is deleted, or broken, stays in use until it is replaced, no gateway names it, or the process ends. It is not
// safe for concurrent use.
type secrets struct {
	good    map[policy.SecretValue][]byte
	renewed []string // names of Secrets of which the last update replaced a value
	roots   []byte
}

// update takes in what was read, but for what is not in order.
func (s *secrets) update(found *manifest.Result, gateways []*policy.Gateway) {
	next, renewed := map[policy.SecretValue][]byte{}, map[string]bool{}
	for _, g := range gateways {
		for _, use := range g.Secrets() {
			v := use.SecretValue
			before, had := s.good[v]
			switch {
			case found.Input.Usable(v):
				next[v] = found.Secrets[v.Secret].Value(v.Key)
				if had && !bytes.Equal(before, next[v]) {
					renewed[v.Secret.String()] = true
				}
			case had:
				next[v] = before
			}
		}
	}
	s.good = next
	s.renewed = slices.Sorted(maps.Keys(renewed))
}

// value is a SecretSource of package xds/envoy. Nil secrets have none.
func (s *secrets) value(v policy.SecretValue) []byte {
	if s == nil {
		return nil
	}
	return s.good[v]
}

// news names the Secrets of which the last update replaced a value.
func (s *secrets) news() []string {
	if s == nil {
		return nil
	}
	return s.renewed
}

// rootFiles are where systems keep the certificates of the authorities that they trust.
var rootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine, Arch
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/ssl/cert.pem",                                 // macOS, BSD
}

func trustsSystem(g *policy.Gateway) bool {
	return slices.ContainsFunc(g.Backends, func(b policy.Backend) bool { return b.TLS != nil && b.TLS.CABundle == nil })
}

// systemRoots reads the certificates of the authorities that this machine trusts: the file that SSL_CERT_FILE names, as for
// other programs, else the first of the known ones. If there is none it is what was there last.
func (s *secrets) systemRoots() []byte {
	files := rootFiles
	if named := os.Getenv("SSL_CERT_FILE"); named != "" {
		files = []string{named}
	}
	for _, file := range files {
		content, _ := os.ReadFile(file) //nolint:gosec // The user names it. One that cannot be read holds none.
		if found := certificatesIn(content); len(found) > 0 {
			s.roots = found
			break
		}
	}
	return s.roots
}

// certificatesIn leaves out what cannot be read, as other programs do: Envoy would refuse the whole, and with it other secrets
// that it is told at the same time.
func certificatesIn(content []byte) []byte {
	var all []byte
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			all = append(all, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		}
	}
	return all
}
