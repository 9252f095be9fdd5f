package controllers

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A vault is contents, and the cluster with the one Secret that two backends of a gateway name.
type vault struct {
	*contents

	cluster client.Client
	secret  policy.SecretValue
	version string // of the Secret as the cache has it; empty: it may not be read
	reads   int
	fails   error
}

func newVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{version: "1", secret: policy.SecretValue{Secret: policy.Name{Namespace: "edge", Name: "provider"}, Key: "token", Purpose: policy.ForCredential}}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "provider"}, Data: map[string][]byte{"token": []byte("sk-1")}}
	secret.Labels = map[string]string{v1alpha1.SecretLabel: "true"}
	v.cluster = fake.NewClientBuilder().WithScheme(Scheme()).WithObjects(secret).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			v.reads++
			if v.fails != nil {
				return v.fails
			}
			return c.Get(ctx, key, o, opts...)
		},
	}).Build()
	v.contents = &contents{api: v.cluster}
	return v
}

// update is that of contents, for the gateway.
func (v *vault) update(t *testing.T) error {
	t.Helper()
	in := written(1, 7)
	for _, name := range []string{"one", "two"} {
		in.Gateways[0].Spec.Backends = append(in.Gateways[0].Spec.Backends, v1alpha1.Backend{
			Name: name, Endpoints: []v1alpha1.Endpoint{{Address: "provider.test", Port: 443}},
			Credential: &v1alpha1.BackendCredential{SecretKeyRef: v1alpha1.SecretKeyRef{Name: "provider", Key: "token"}},
		})
	}
	table, _ := policy.Compile(in)
	return v.contents.update(t.Context(), table.Gateways(), func(policy.Name) (string, bool) { return v.version, v.version != "" })
}

// write has the Secret hold another value, and the cache know of it.
func (v *vault) write(t *testing.T, value, version string) {
	t.Helper()
	s := &corev1.Secret{}
	if err := v.cluster.Get(t.Context(), client.ObjectKey{Namespace: "edge", Name: "provider"}, s); err != nil {
		t.Fatal(err)
	}
	s.Data["token"] = []byte(value)
	if err := v.cluster.Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	v.version, v.reads = version, 0
}

// want expects the value that Envoys may be told; empty: none.
func (v *vault) want(t *testing.T, value string, unread bool) {
	t.Helper()
	c := v.content()
	if got := string(c.Value(v.secret)); got != value || c.Usable(v.secret) != (value != "") || c.Unread(v.secret.Secret) != unread {
		t.Errorf("it is %q, usable: %t, unread: %t; want %q and %t", got, c.Usable(v.secret), c.Unread(v.secret.Secret), value, unread)
	}
}

func TestASecretIsReadOnceForEachVersion(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	for range 2 {
		if err := v.update(t); err != nil {
			t.Fatal(err)
		}
		v.want(t, "sk-1", false)
	}
	if v.reads != 1 {
		t.Errorf("it was read %d times, want once", v.reads)
	}
	told := v.content()
	v.write(t, "sk-2", "2")
	if err := v.update(t); err != nil {
		t.Fatal(err)
	}
	v.want(t, "sk-2", false)
	if v.reads != 1 {
		t.Errorf("its next version was read %d times, want once", v.reads)
	}
	if got := string(told.Value(v.secret)); got != "sk-1" {
		t.Errorf("what was told before has become %q", got)
	}
}

// TestASecretThatCannotBeReadStaysAsItWas, and one that was never read costs its gateway nothing that Envoys have.
func TestASecretThatCannotBeReadStaysAsItWas(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	v.fails = errors.New("the API server is away")
	if err := v.update(t); err == nil || !strings.HasPrefix(err.Error(), "reading Secret edge/provider: ") {
		t.Errorf("error is %v, want one that names the Secret", err)
	}
	v.want(t, "", true)
	v.fails = nil
	if err := v.update(t); err != nil {
		t.Fatal(err)
	}
	v.want(t, "sk-1", false)
	v.write(t, "sk-2", "2")
	v.fails = errors.New("the API server is away")
	if err := v.update(t); err == nil {
		t.Error("it could not be read, and nobody is told")
	}
	v.want(t, "sk-1", false)
	v.fails = nil
	if err := v.update(t); err != nil {
		t.Fatal(err)
	}
	v.want(t, "sk-2", false)
}

// TestASecretThatLosesItsLabelIsReadNoMore: until the cache knows of it, Envoys keep what they have.
func TestASecretThatLosesItsLabelIsReadNoMore(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	if err := v.update(t); err != nil {
		t.Fatal(err)
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "provider"}, Data: map[string][]byte{"token": []byte("sk-other")}}
	if err := v.cluster.Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	v.version = "2"
	if err := v.update(t); err == nil || !strings.Contains(err.Error(), "it has lost its label "+v1alpha1.SecretLabel) || strings.Contains(err.Error(), "sk-") {
		t.Errorf("error is %v, want one that names the label", err)
	}
	v.want(t, "sk-1", false)
	v.version, v.reads = "", 0
	if err := v.update(t); err != nil {
		t.Fatal(err)
	}
	v.want(t, "", false)
	if v.reads != 0 {
		t.Errorf("a Secret that may not be read was read %d times", v.reads)
	}
}
