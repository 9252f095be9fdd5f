package controllers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/internal/testca"
	"github.com/tierkeeper/tierkeeper/policy"
)

// TestNoSecretStaysInMemory: what the cache keeps of a Secret says all that policy has to know of it, and nothing that it holds.
func TestNoSecretStaysInMemory(t *testing.T) {
	t.Parallel()
	pair := testca.New(t, "ca").Issue(t, "site.test")
	for name, data := range map[string]map[string][]byte{
		"keys":        {"token": []byte("sk-very-secret"), "empty": []byte(" \n"), "invalid": []byte("sk with space")},
		"certificate": {policy.CertificateKey: []byte(pair.Cert), policy.PrivateKey: []byte(pair.Key)},
		"broken":      {policy.CertificateKey: []byte(pair.Cert), policy.PrivateKey: []byte("sk-no-key-at-all")},
		"nothing":     {},
		"too many":    manyValues(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
				Namespace: "team-a", Name: name, ResourceVersion: "7", Labels: map[string]string{v1alpha1.SecretLabel: "true"},
				Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"stringData":{"token":"sk-very-secret"}}`},
			}, Data: data, Type: corev1.SecretTypeOpaque}
			if len(data) == 2 {
				in.Type = corev1.SecretTypeTLS
			}
			kept, err := digested(in)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(kept)
			if err != nil {
				t.Fatal(err)
			}
			for key, content := range data {
				if trimmed := bytes.TrimSpace(content); len(trimmed) > 0 && holds(text, kept.(*corev1.Secret), trimmed) {
					t.Errorf("the cache has what stands under %s", key)
				}
			}
			again, err := digested(kept)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(kept, again); diff != "" {
				t.Errorf("what is listed passes twice, and is hashed twice (-once +twice):\n%s", diff)
			}
			got, err := readDigested(kept.(*corev1.Secret))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(policy.ReadSecret(string(in.Type), data), got); diff != "" {
				t.Errorf("what is read of it (-want +got):\n%s", diff)
			}
		})
	}
}

func manyValues() map[string][]byte {
	data := map[string][]byte{}
	for i := range 1000 {
		data[fmt.Sprint(i)] = fmt.Append(nil, "sk-very-secret-", i)
	}
	return data
}

func holds(text []byte, s *corev1.Secret, content []byte) bool {
	for _, value := range s.Data {
		if bytes.Contains(value, content) {
			return true
		}
	}
	return bytes.Contains(text, content)
}

func TestASecretThatWasNotDigestedIsAnError(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "sk-1", "d", "dshort", "ee"} {
		if _, err := readDigested(&corev1.Secret{Data: map[string][]byte{"token": []byte(value)}}); err == nil {
			t.Errorf("%q passes for digested", value)
		}
	}
}
