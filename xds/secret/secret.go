// Package secret decides which content of Secrets, and which authorities, Envoys are told: what was last in order.
package secret

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"slices"

	"github.com/tierkeeper/tierkeeper/policy"
)

// A Keeper has what the Secrets that gateways name hold, or held when they were last in order: a certificate or a key at a
// provider that is deleted, or broken, stays in use until it is replaced, no gateway names it, or the process ends. It is not
// safe for concurrent use.
type Keeper struct {
	good    map[policy.SecretValue][]byte
	renewed []string // names of Secrets of which the last update replaced a value
	roots   []byte
	file    []byte // that they were found in
}

// Update takes in the content of what the gateways name, but for what is not usable.
func (k *Keeper) Update(gateways []*policy.Gateway, usable func(policy.SecretValue) bool, content func(policy.SecretValue) []byte) {
	next, renewed := map[policy.SecretValue][]byte{}, map[string]bool{}
	for _, g := range gateways {
		for _, use := range g.Secrets() {
			v := use.SecretValue
			before, had := k.good[v]
			switch {
			case usable(v):
				next[v] = content(v)
				if had && !bytes.Equal(before, next[v]) {
					renewed[v.Secret.String()] = true
				}
			case had:
				next[v] = before
			}
		}
	}
	k.good = next
	k.renewed = slices.Sorted(maps.Keys(renewed))
}

// Value is an envoy.SecretSource. A nil Keeper has none.
func (k *Keeper) Value(v policy.SecretValue) []byte {
	if k == nil {
		return nil
	}
	return k.good[v]
}

// Renewed names the Secrets of which the last Update replaced a value.
func (k *Keeper) Renewed() []string {
	if k == nil {
		return nil
	}
	return k.renewed
}

// rootFiles are where systems keep the certificates of the authorities that they trust.
var rootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine, Arch
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/ssl/cert.pem",                                 // macOS, BSD
}

// SystemRoots reads the certificates of the authorities that this machine trusts: the file that SSL_CERT_FILE names, as for
// other programs, else the first of the known ones. If there is none it is what was there last.
func (k *Keeper) SystemRoots() []byte {
	files := rootFiles
	if named := os.Getenv("SSL_CERT_FILE"); named != "" {
		files = []string{named}
	}
	for _, file := range files {
		content, _ := os.ReadFile(file) //nolint:gosec // The user names it. One that cannot be read holds none.
		if len(content) > 0 && bytes.Equal(content, k.file) {
			break
		}
		if found := certificatesIn(content); len(found) > 0 {
			k.roots, k.file = found, content
			break
		}
	}
	return k.roots
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
