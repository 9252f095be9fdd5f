package policy_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// selfSigned is a certificate and its private key, in PEM.
func selfSigned(t *testing.T, key crypto.Signer) (chain, private string) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"site.example"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return armoured("CERTIFICATE", der), armoured("PRIVATE KEY", secret)
}

func armoured(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// Whatever Envoy refuses must be said here: Envoy would say it for itself only, and serve nothing.
func TestACertificateIsOneThatEnvoyServes(t *testing.T) {
	t.Parallel()
	curve := func(c elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	rsaKey := func(bits int) *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const another = "holds a private key in another form than its PEM says under tls.key"
	replace := func(before, after string) func(string) string {
		return func(s string) string { return strings.ReplaceAll(s, before, after) }
	}
	pkcs1 := rsaKey(2048)
	for name, tc := range map[string]struct {
		key   crypto.Signer
		spoil func(private string) string
		after string // what follows in the chain
		want  string
	}{
		"RSA of 2048 bits":        {key: rsaKey(2048)},
		"RSA of 1024 bits":        {key: rsaKey(1024), want: "holds an RSA key of less than 2048 bits"},
		"P-256":                   {key: curve(elliptic.P256())},
		"P-384":                   {key: curve(elliptic.P384())},
		"P-521":                   {key: curve(elliptic.P521())},
		"P-224":                   {key: curve(elliptic.P224()), want: "holds an ECDSA key on the curve P-224; P-256, P-384 and P-521 are served"},
		"Ed25519":                 {key: edwards},
		"a comment":               {key: curve(elliptic.P256()), after: "the end\n"},
		"a header":                {key: curve(elliptic.P256()), spoil: replace("BEGIN PRIVATE KEY-----", "BEGIN PRIVATE KEY-----\nComment: mine\n"), want: "holds PEM with headers under tls.key"},
		"a key said to be of RSA": {key: rsaKey(2048), spoil: replace(" PRIVATE", " RSA PRIVATE")},
		"a key said to be of FOO": {key: rsaKey(2048), spoil: replace(" PRIVATE", " FOO PRIVATE"), want: another},
		"a key of PKCS #1": {key: pkcs1, spoil: func(string) string {
			return armoured("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(pkcs1))
		}},
		"a key of PKCS #1 said to be of PKCS #8": {key: pkcs1, want: another, spoil: func(string) string {
			return armoured("PRIVATE KEY", x509.MarshalPKCS1PrivateKey(pkcs1))
		}},
		"a broken chain": {key: curve(elliptic.P256()), after: armoured("CERTIFICATE", []byte("no")), want: "holds a certificate that cannot be read, number 2 under tls.crt: "},
	} {
		chain, private := selfSigned(t, tc.key)
		if tc.spoil != nil {
			private = tc.spoil(private)
		}
		s := policy.ReadSecret(policy.CertificateType, map[string][]byte{"tls.crt": []byte(chain + tc.after), "tls.key": []byte(private)})
		if got := s.PairProblem; !strings.HasPrefix(got, tc.want) || (got == "") != (tc.want == "") {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

// TestAHugeSecretCostsNobody: others wait while a Secret is read, and anybody may write one. Go would take minutes to read this key.
func TestAHugeSecretCostsNobody(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("A", 1<<19)
	number := new(big.Int).SetBytes([]byte(huge))
	der, err := asn1.Marshal(struct {
		Version                  int
		N                        *big.Int
		E                        int
		D, P, Q, DP, DQ, Inverse *big.Int
	}{0, new(big.Int).Mul(number, number), 65537, number, number, number, number, number, number})
	if err != nil {
		t.Fatal(err)
	}
	chain, private := selfSigned(t, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	const want = "has more than 64 KiB under tls.crt, or more than 8 KiB under tls.key"
	for _, pair := range [][2]string{{chain, armoured("RSA PRIVATE KEY", der)}, {chain + huge, private}} {
		s := policy.ReadSecret(policy.CertificateType, map[string][]byte{"tls.crt": []byte(pair[0]), "tls.key": []byte(pair[1])})
		if s.PairProblem != want {
			t.Errorf("got %q, want %q", s.PairProblem, want)
		}
	}
}

// TestASecretWithTooManyValuesSaysSo: what is kept of a value is many times as large as the smallest one.
func TestASecretWithTooManyValuesSaysSo(t *testing.T) {
	t.Parallel()
	data := map[string][]byte{}
	for i := range 257 {
		data[fmt.Sprint(i)] = fmt.Append(nil, "sk-", i)
	}
	name := policy.Name{Namespace: "team-a", Name: "keys"}
	value := policy.SecretValue{Secret: name, Key: "0", Purpose: policy.ForCredential}
	usable := func() bool {
		in := policy.Input{Secrets: map[policy.Name]policy.Secret{name: policy.ReadSecret("", data)}}
		return in.Usable(value)
	}
	if s := policy.ReadSecret("", data); len(s.Keys) > 0 || usable() {
		t.Errorf("%d of 257 values are read", len(s.Keys))
	}
	delete(data, "256")
	if !usable() {
		t.Error("one of 256 values cannot be used")
	}
}

// TestASecretThatIsNotReadIsNotSaidToBeMissing: an operator that reads the Secrets of some namespaces cannot know of others.
func TestASecretThatIsNotReadIsNotSaidToBeMissing(t *testing.T) {
	t.Parallel()
	quota := v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "app"}}
	quota.Spec.Keys = []v1alpha1.APIKey{{Name: "main", SecretKeyRef: &v1alpha1.SecretKeyRef{Name: "keys", Key: "main"}}}
	const (
		missing = "There is no Secret keys with the label tierkeeper.io/secret=true in namespace team-a."
		unread  = "This operator reads no Secrets in namespace team-a: see its flag --secret-namespaces."
	)
	for name, tc := range map[string]struct {
		read []string
		want string
	}{
		"everywhere": {want: missing},
		"here":       {read: []string{"edge", "team-a"}, want: missing},
		"elsewhere":  {read: []string{"edge"}, want: unread},
	} {
		_, verdicts := policy.Compile(policy.Input{Quotas: []*v1alpha1.ApiKeyQuota{&quota}, SecretNamespaces: tc.read})
		p := verdicts[0].Problems[0]
		if p.Reason != v1alpha1.ReasonSecretNotFound || p.Field != "spec.keys[name=main].secretKeyRef.name" || !strings.HasPrefix(p.Message, tc.want) {
			t.Errorf("Secrets are read %s: it says %v, want %q", name, p, tc.want)
		}
	}
}
