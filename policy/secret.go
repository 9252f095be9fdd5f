package policy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// Where a certificate stands, and what a Secret that holds one is called: as in Kubernetes.
const (
	CertificateType = "kubernetes.io/tls"
	CertificateKey  = "tls.crt"
	PrivateKey      = "tls.key"
)

// A Secret is what may be known of a Secret: never its content.
type Secret struct {
	Labelled bool           // carries v1alpha1.SecretLabel
	Type     string         // empty: Opaque
	Keys     map[string]Key // by key of its data; empty unless Labelled
	// PairProblem says why a certificate and its private key cannot be used, where Type is CertificateType; empty if they can.
	PairProblem string
}

// ReadSecret looks at the content of a Secret that carries the label.
func ReadSecret(kind string, data map[string][]byte) Secret {
	s := Secret{Labelled: true, Type: kind, Keys: make(map[string]Key, len(data))}
	for name, content := range data {
		s.Keys[name] = ReadKey(content)
	}
	if kind == CertificateType {
		s.PairProblem = pairProblem(data)
	}
	return s
}

// pairProblem quotes nothing of the content. The errors of crypto/tls do not either.
func pairProblem(data map[string][]byte) string {
	for _, name := range []string{CertificateKey, PrivateKey} {
		if len(bytes.TrimSpace(data[name])) == 0 {
			return "has nothing under " + name
		}
	}
	if _, err := tls.X509KeyPair(data[CertificateKey], data[PrivateKey]); err != nil {
		return fmt.Sprintf("holds no certificate with its private key: %v", err)
	}
	return ""
}

// certificatesIn counts the certificates that content holds in PEM; 0 if it holds anything else.
func certificatesIn(content []byte) (n int) {
	for rest := bytes.TrimSpace(content); len(rest) > 0; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return 0
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return 0
		}
		rest = bytes.TrimSpace(rest)
	}
	return n
}

// findSecret finds a Secret that may be read.
func (c *compiler) findSecret(name Name) (Secret, *Problem) {
	secret, found := c.in.Secrets[name]
	switch {
	case !found:
		return secret, &Problem{v1alpha1.ReasonSecretNotFound, "name", fmt.Sprintf("There is no Secret %s in namespace %s.", name.Name, name.Namespace)}
	case !secret.Labelled:
		return secret, &Problem{
			v1alpha1.ReasonSecretNotLabelled, "name",
			fmt.Sprintf("Secret %s may not be read: label it %s=true.", name.Name, v1alpha1.SecretLabel),
		}
	}
	return secret, nil
}

// readSecret finds the value to which ref refers. The field of a Problem is relative to ref.
func (c *compiler) readSecret(namespace string, ref *v1alpha1.SecretKeyRef) (Key, *Problem) {
	secret, p := c.findSecret(Name{namespace, ref.Name})
	if p != nil {
		return Key{}, p
	}
	key, found := secret.Keys[ref.Key]
	switch {
	case !found:
		return key, &Problem{v1alpha1.ReasonSecretNotFound, "key", fmt.Sprintf("Secret %s has no key %s.", ref.Name, ref.Key)}
	case key.Empty:
		return key, &Problem{v1alpha1.ReasonKeyEmpty, "key", fmt.Sprintf("Key %s of Secret %s is empty.", ref.Key, ref.Name)}
	}
	return key, nil
}

// readKey is readSecret for a value that must fit into a header.
func (c *compiler) readKey(namespace string, ref *v1alpha1.SecretKeyRef) (Key, *Problem) {
	key, p := c.readSecret(namespace, ref)
	if p == nil && key.Invalid {
		p = &Problem{
			v1alpha1.ReasonKeyInvalid, "key",
			fmt.Sprintf("Key %s of Secret %s holds white space, a comma or characters other than ASCII, which no client can send in a header.", ref.Key, ref.Name),
		}
	}
	return key, p
}

// checkGatewaySecrets says what is wrong with the Secrets that a gateway names. It costs no more than the listener, or the
// routes of the backend, that needs the Secret.
func (c *compiler) checkGatewaySecrets(namespace string, spec *v1alpha1.QuotaGatewaySpec) []Problem {
	var problems []Problem
	note := func(p *Problem, format string, args ...any) {
		if p != nil {
			p.Field = fmt.Sprintf(format, args...) + "." + p.Field
			problems = append(problems, *p)
		}
	}
	for _, l := range spec.Listeners {
		if l.TLS == nil {
			continue
		}
		for _, ref := range l.TLS.CertificateRefs {
			note(c.checkPair(Name{namespace, ref.Name}), "spec.listeners[name=%s].tls.certificateRefs[name=%s]", l.Name, ref.Name)
		}
	}
	for _, b := range spec.Backends {
		if b.TLS != nil && b.TLS.CABundleRef != nil {
			note(c.checkBundle(namespace, b.TLS.CABundleRef), "spec.backends[name=%s].tls.caBundleRef", b.Name)
		}
		if b.Credential != nil {
			_, p := c.readKey(namespace, &b.Credential.SecretKeyRef)
			note(p, "spec.backends[name=%s].credential.secretKeyRef", b.Name)
		}
	}
	return problems
}

func (c *compiler) checkPair(name Name) *Problem {
	secret, p := c.findSecret(name)
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

func (c *compiler) checkBundle(namespace string, ref *v1alpha1.SecretKeyRef) *Problem {
	key, p := c.readSecret(namespace, ref)
	if p == nil && key.Certificates == 0 {
		p = &Problem{
			v1alpha1.ReasonCertificateInvalid, "key",
			fmt.Sprintf("Key %s of Secret %s holds something else than certificates in PEM.", ref.Key, ref.Name),
		}
	}
	return p
}
