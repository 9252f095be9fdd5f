package envoy

import (
	"bytes"
	"maps"
	"slices"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tierkeeper/tierkeeper/policy"
)

// A SecretSource has the content of Secrets. It returns nil for a value that is not there, or not fit for its purpose.
type SecretSource func(policy.SecretValue) []byte

// A vault hands out references to secrets, and gathers what Envoy must be told so that they lead somewhere. What a reference
// leads to can change without a change of what refers to it: streams go on, and whatever is new uses the new secret.
type vault struct {
	source SecretSource
	roots  []byte
	asked  map[string]*tlsv3.Secret // by what is being built
	told   map[string]*tlsv3.Secret
}

func newVault(s Settings) *vault {
	v := &vault{source: s.Secrets, roots: s.SystemRoots, asked: map[string]*tlsv3.Secret{}, told: map[string]*tlsv3.Secret{}}
	if v.source == nil {
		v.source = func(policy.SecretValue) []byte { return nil }
	}
	return v
}

// certificate is a certificate with its private key; false, as of the other references, if there is no content.
func (v *vault) certificate(name policy.Name) (*tlsv3.SdsSecretConfig, bool) {
	half := func(key string) []byte {
		return v.source(policy.SecretValue{Secret: name, Key: key, Purpose: policy.ForCertificate})
	}
	chain, key := half(policy.CertificateKey), half(policy.PrivateKey)
	return v.keep("certificate/"+name.String(), len(chain) > 0 && len(key) > 0, &tlsv3.Secret{Type: &tlsv3.Secret_TlsCertificate{
		TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(chain), PrivateKey: inline(key)},
	}})
}

// authorities are those that a backend's certificate may come from.
func (v *vault) authorities(t *policy.BackendTLS) (*tlsv3.SdsSecretConfig, bool) {
	name, content := "authorities", v.roots
	if b := t.CABundle; b != nil {
		name, content = "authorities/"+b.Secret.String()+"/"+b.Key, v.source(*b)
	}
	return v.keep(name, len(content) > 0, &tlsv3.Secret{Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(content)},
	}})
}

// credential is a key at a provider, without the white space around it.
func (v *vault) credential(c *policy.BackendCredential) (*tlsv3.SdsSecretConfig, bool) {
	content := bytes.TrimSpace(v.source(c.Secret))
	return v.keep("credential/"+c.Secret.Secret.String()+"/"+c.Secret.Key, len(content) > 0, &tlsv3.Secret{Type: &tlsv3.Secret_GenericSecret{
		GenericSecret: &tlsv3.GenericSecret{Secret: inline(content)},
	}})
}

func (v *vault) keep(name string, there bool, secret *tlsv3.Secret) (*tlsv3.SdsSecretConfig, bool) {
	if !there {
		return nil, false
	}
	secret.Name = name
	v.asked[name] = secret
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: overADS()}, true
}

// built ends the building of a resource. Secrets that only one that came to nothing refers to are not told: no Envoy would ask
// for them.
func (v *vault) built(ok bool) {
	if ok {
		maps.Copy(v.told, v.asked)
	}
	clear(v.asked)
}

func (v *vault) secrets() []*tlsv3.Secret {
	var all []*tlsv3.Secret
	for _, name := range slices.Sorted(maps.Keys(v.told)) {
		all = append(all, v.told[name])
	}
	return all
}

// inline is text where it can be, for those who read it where nothing secret is in it.
func inline(content []byte) *corev3.DataSource {
	if utf8.Valid(content) {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(content)}}
	}
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: content}}
}

// overADS says that a resource comes over the stream over which everything comes.
func overADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}
