package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// Where a certificate stands, and what a Secret that holds one is called: as in Kubernetes.
const (
	CertificateType = "kubernetes.io/tls"
	CertificateKey  = "tls.crt"
	PrivateKey      = "tls.key"
)

// What is read of one Secret has bounds: others wait while it is read, and anybody may write one. Go takes minutes to read an RSA key
// of a megabyte.
const (
	maxValues     = 256      // of one with more none is read
	maxChain      = 64 << 10 // bytes of a certificate with those of its issuers
	maxPrivateKey = 8 << 10  // bytes; an RSA key of 8192 bits has 6400
)

// A Secret is what may be known of a Secret: never its content.
type Secret struct {
	Labelled bool           // carries v1alpha1.SecretLabel
	Type     string         // empty: Opaque
	TooMany  bool           // values: none is read
	Keys     map[string]Key // by key of its data; empty unless Labelled, and if TooMany
	// PairProblem says why a certificate and its private key cannot be used, where Type is CertificateType; empty if they can.
	PairProblem string
}

// ReadSecret looks at the content of a Secret that carries the label.
func ReadSecret(kind string, data map[string][]byte) Secret {
	if len(data) > maxValues {
		return Secret{Labelled: true, Type: kind, TooMany: true, Keys: map[string]Key{}}
	}
	s := Secret{Labelled: true, Type: kind, Keys: make(map[string]Key, len(data))}
	for name, content := range data {
		s.Keys[name] = ReadKey(content)
	}
	if kind == CertificateType {
		s.PairProblem = pairProblem(data)
	}
	return s
}

// pairProblem finds what Envoy would refuse, too: one Secret that it refuses takes others with it that it is told at the same
// time. It quotes nothing of the content; the errors of crypto/tls and crypto/x509 do not either.
func pairProblem(data map[string][]byte) string {
	if len(data[CertificateKey]) > maxChain || len(data[PrivateKey]) > maxPrivateKey {
		return fmt.Sprintf("has more than %d KiB under %s, or more than %d KiB under %s", maxChain>>10, CertificateKey, maxPrivateKey>>10, PrivateKey)
	}
	for _, name := range []string{CertificateKey, PrivateKey} {
		if len(bytes.TrimSpace(data[name])) == 0 {
			return "has nothing under " + name
		}
		for block, rest := pem.Decode(data[name]); block != nil; block, rest = pem.Decode(rest) {
			if p := blockProblem(block); p != "" {
				return p + " under " + name
			}
		}
	}
	pair, err := tls.X509KeyPair(data[CertificateKey], data[PrivateKey])
	if err != nil {
		return fmt.Sprintf("holds no certificate with its private key: %v", err)
	}
	for i, der := range pair.Certificate {
		if _, err := x509.ParseCertificate(der); err != nil {
			return fmt.Sprintf("holds a certificate that cannot be read, number %d under %s: %v", i+1, CertificateKey, err)
		}
	}
	switch key := pair.Leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 {
			return "holds an RSA key of less than 2048 bits"
		}
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P224() {
			return "holds an ECDSA key on the curve P-224; P-256, P-384 and P-521 are served"
		}
	}
	return ""
}

// blockProblem finds forms of PEM that Go reads and Envoy does not.
func blockProblem(b *pem.Block) string {
	if len(b.Headers) > 0 {
		return "holds PEM with headers"
	}
	switch kind, isKey := strings.CutSuffix(b.Type, "PRIVATE KEY"); {
	case !isKey, kind == "RSA ", kind == "EC ":
		return ""
	case kind == "":
		if _, err := x509.ParsePKCS8PrivateKey(b.Bytes); err == nil {
			return ""
		}
	}
	return "holds a private key in another form than its PEM says"
}

// isBundle reports whether content is certificates in PEM, at least one, and nothing else.
func isBundle(content []byte) bool {
	for {
		block, rest := pem.Decode(content)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return false
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return false
		}
		if content = bytes.TrimSpace(rest); len(content) == 0 {
			return true
		}
	}
}

// A SecretValue names one value of a Secret, and what it is for.
type SecretValue struct {
	Secret  Name
	Key     string
	Purpose Purpose
}

// A Purpose says what a value of a Secret must look like.
type Purpose uint8

// The purposes: a key that is sent in a header, certificates of authorities, half of a certificate with its private key.
const (
	ForCredential Purpose = iota
	ForAuthorities
	ForCertificate
)

var purposeNames = []string{"Credential", "Authorities", "Certificate"}

// MarshalText writes what "tierkeeper compile" shows.
func (p Purpose) MarshalText() ([]byte, error) { return []byte(purposeNames[p]), nil }

// A SecretUse is a value of a Secret that a gateway needs, and the field that names it.
type SecretUse struct {
	SecretValue
	Field string // as in spec.listeners[name=https].tls.certificateRefs[name=site]
}

// SecretUses lists what a gateway needs of Secrets, as it is written.
func SecretUses(g *v1alpha1.QuotaGateway) []SecretUse { return secretUses(g.Namespace, &g.Spec) }

// secretUses lists what a gateway needs of Secrets.
func secretUses(namespace string, spec *v1alpha1.QuotaGatewaySpec) []SecretUse {
	var all []SecretUse
	add := func(purpose Purpose, secret, key, field string, args ...any) {
		all = append(all, SecretUse{SecretValue{Name{namespace, secret}, key, purpose}, fmt.Sprintf(field, args...)})
	}
	for _, l := range spec.Listeners {
		if l.TLS == nil {
			continue
		}
		for _, ref := range l.TLS.CertificateRefs {
			for _, key := range []string{CertificateKey, PrivateKey} {
				add(ForCertificate, ref.Name, key, "spec.listeners[name=%s].tls.certificateRefs[name=%s]", l.Name, ref.Name)
			}
		}
	}
	for _, b := range spec.Backends {
		if b.TLS != nil && b.TLS.CABundleRef != nil {
			add(ForAuthorities, b.TLS.CABundleRef.Name, b.TLS.CABundleRef.Key, "spec.backends[name=%s].tls.caBundleRef", b.Name)
		}
		if c := b.Credential; c != nil {
			add(ForCredential, c.SecretKeyRef.Name, c.SecretKeyRef.Key, "spec.backends[name=%s].credential.secretKeyRef", b.Name)
		}
	}
	return all
}

// Usable reports whether a value is there and fit for its purpose: whether Compile has nothing to say against its use.
func (in *Input) Usable(v SecretValue) bool { return in.checkValue(v) == nil }

// checkUses says what is wrong with the Secrets that a gateway names. It costs no more than the listener, or the routes of
// the backend, that needs the Secret.
func (c *compilation) checkUses(all []SecretUse) []Problem {
	var problems []Problem
	for _, u := range all {
		if u.Purpose == ForCertificate && u.Key == PrivateKey {
			continue // It was judged with its certificate.
		}
		if p := c.in.checkValue(u.SecretValue); p != nil {
			p.Field = u.Field + "." + p.Field
			problems = append(problems, *p)
		}
	}
	return problems
}

// checkValue says what is wrong with a value. The field of a Problem is relative to the one that names the value.
func (in *Input) checkValue(v SecretValue) *Problem {
	switch v.Purpose {
	case ForCertificate:
		return in.checkPair(v.Secret)
	case ForAuthorities:
		return in.checkBundle(v)
	default:
		_, p := in.readKey(v)
		return p
	}
}

// findSecret finds a Secret that may be read.
func (in *Input) findSecret(name Name) (Secret, *Problem) {
	secret, found := in.Secrets[name]
	switch {
	case !found && !in.ReadsSecrets(name.Namespace):
		return secret, &Problem{
			v1alpha1.ReasonSecretNotFound, "name",
			fmt.Sprintf("This operator reads no Secrets in namespace %s: see its flag --secret-namespaces.", name.Namespace),
		}
	case !found:
		return secret, &Problem{
			v1alpha1.ReasonSecretNotFound, "name",
			fmt.Sprintf("There is no Secret %s with the label %s=true in namespace %s.", name.Name, v1alpha1.SecretLabel, name.Namespace),
		}
	case !secret.Labelled:
		return secret, &Problem{
			v1alpha1.ReasonSecretNotLabelled, "name",
			fmt.Sprintf("Secret %s may not be read: label it %s=true.", name.Name, v1alpha1.SecretLabel),
		}
	case secret.TooMany:
		return secret, &Problem{
			v1alpha1.ReasonSecretNotFound, "name",
			fmt.Sprintf("Secret %s has more than %d values, and none of them is read: put what is needed here into a Secret of its own.", name.Name, maxValues),
		}
	}
	return secret, nil
}

// readSecret finds a value that is not empty.
func (in *Input) readSecret(v SecretValue) (Key, *Problem) {
	secret, p := in.findSecret(v.Secret)
	if p != nil {
		return Key{}, p
	}
	key, found := secret.Keys[v.Key]
	switch {
	case !found:
		return key, &Problem{v1alpha1.ReasonSecretNotFound, "key", fmt.Sprintf("Secret %s has no key %s.", v.Secret.Name, v.Key)}
	case key.Empty:
		return key, &Problem{v1alpha1.ReasonKeyEmpty, "key", fmt.Sprintf("Key %s of Secret %s is empty.", v.Key, v.Secret.Name)}
	}
	return key, nil
}

// readKey is readSecret for a value that must fit into a header.
func (in *Input) readKey(v SecretValue) (Key, *Problem) {
	key, p := in.readSecret(v)
	if p == nil && key.Invalid {
		p = &Problem{
			v1alpha1.ReasonKeyInvalid, "key",
			fmt.Sprintf("Key %s of Secret %s holds white space, a comma or characters other than ASCII, which no client can send in a header.", v.Key, v.Secret.Name),
		}
	}
	return key, p
}

func (in *Input) checkPair(name Name) *Problem {
	secret, p := in.findSecret(name)
	switch {
	case p != nil:
		return p
	case secret.Type != CertificateType:
		return &Problem{v1alpha1.ReasonCertificateInvalid, "name", fmt.Sprintf("Secret %s is not of type %s.", name.Name, CertificateType)}
	case secret.PairProblem != "":
		return &Problem{v1alpha1.ReasonCertificateInvalid, "name", fmt.Sprintf("Secret %s %s.", name.Name, secret.PairProblem)}
	}
	return nil
}

func (in *Input) checkBundle(v SecretValue) *Problem {
	key, p := in.readSecret(v)
	if p == nil && !key.Bundle {
		p = &Problem{
			v1alpha1.ReasonCertificateInvalid, "key",
			fmt.Sprintf("Key %s of Secret %s holds something else than certificates in PEM.", v.Key, v.Secret.Name),
		}
	}
	return p
}
