package controllers

import (
	"fmt"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// Scheme has the kinds that the controllers know.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // Kinds that are compiled in can be added.
		}
	}
	return s
}

// CacheOptions says what of the cluster is held in memory, and in what form. Of Secrets only those with the label are watched,
// and nothing is kept of them but digests; of leases only those of the operator's own replicas. SecretNamespaces are those whose
// Secrets may be read; none means all.
func CacheOptions(namespace string, secretNamespaces []string) cache.Options {
	secrets := cache.ByObject{Label: labels.SelectorFromSet(labels.Set{v1alpha1.SecretLabel: "true"}), Transform: digested}
	for _, n := range secretNamespaces {
		if secrets.Namespaces == nil {
			secrets.Namespaces = map[string]cache.Config{}
		}
		secrets.Namespaces[n] = cache.Config{}
	}
	return cache.Options{
		DefaultTransform: newCompact().keep,
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}:    secrets,
			&corev1.Namespace{}: {Transform: onlyLabels},
			&coordinationv1.Lease{}: {
				Namespaces: map[string]cache.Config{namespace: {}},
				Label:      labels.SelectorFromSet(labels.Set{replicaLabel: "operator"}),
				Transform:  cache.TransformStripManagedFields(),
			},
		},
	}
}

// onlyLabels keeps of a namespace what selectors look at.
func onlyLabels(object any) (any, error) {
	n, ok := object.(*corev1.Namespace)
	if !ok {
		return object, nil // It was deleted while nobody watched, and only its name is left.
	}
	return &corev1.Namespace{ObjectMeta: identityOf(n)}, nil
}

// identityOf is what is kept of the metadata of objects that are not ours.
func identityOf(o metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(), Labels: o.GetLabels()}
}

// Entries of a digested Secret's stringData.
const (
	pairProblem = "pair-problem" // what is wrong with a certificate
	tooMany     = "too-many"     // there, if it has more values than are read
)

// digested hashes the values of a Secret before it is kept: no API key stays in memory, whoever names it. What is listed passes
// here twice. Digested Secrets are told by their stringData: the API server takes it, and never gives it back.
func digested(object any) (any, error) {
	s, ok := object.(*corev1.Secret)
	if !ok || s.StringData != nil {
		return object, nil
	}
	read := policy.ReadSecret(string(s.Type), s.Data)
	out := &corev1.Secret{
		ObjectMeta: identityOf(s), Type: s.Type, Data: make(map[string][]byte, len(read.Keys)), StringData: map[string]string{},
	}
	if out.Labels[v1alpha1.SecretLabel] == "true" {
		out.Labels = labelled
	}
	if read.PairProblem != "" {
		out.StringData[pairProblem] = read.PairProblem
	}
	if read.TooMany {
		out.StringData[tooMany] = ""
	}
	for name, key := range read.Keys {
		out.Data[name] = writeKey(key)
	}
	return out, nil
}

// labelled are the labels of all digested Secrets; nobody looks at others.
var labelled = map[string]string{v1alpha1.SecretLabel: "true"}

// What a value of a digested Secret begins with.
const (
	keyDigest  = 'd' // and the digest
	keyEmpty   = 'e'
	keyInvalid = 'i'
	keyBundle  = 'b' // it is invalid as a key
)

func writeKey(k policy.Key) []byte {
	switch {
	case k.Empty:
		return []byte{keyEmpty}
	case k.Bundle:
		return []byte{keyBundle}
	case k.Invalid:
		return []byte{keyInvalid}
	default:
		return append([]byte{keyDigest}, k.Digest[:]...)
	}
}

func readKey(b []byte) (k policy.Key, err error) {
	switch {
	case len(b) == 1 && b[0] == keyEmpty:
		k.Empty = true
	case len(b) == 1 && b[0] == keyBundle:
		k.Invalid, k.Bundle = true, true
	case len(b) == 1 && b[0] == keyInvalid:
		k.Invalid = true
	case len(b) == 1+len(k.Digest) && b[0] == keyDigest:
		copy(k.Digest[:], b[1:])
	default:
		return k, fmt.Errorf("a Secret in the cache was not digested")
	}
	return k, nil
}

// readDigested reads what digested wrote.
func readDigested(s *corev1.Secret) (policy.Secret, error) {
	_, many := s.StringData[tooMany]
	out := policy.Secret{
		Labelled: s.Labels[v1alpha1.SecretLabel] == "true", Type: string(s.Type), TooMany: many, Keys: make(map[string]policy.Key, len(s.Data)),
		PairProblem: s.StringData[pairProblem],
	}
	for name, value := range s.Data {
		key, err := readKey(value)
		if err != nil {
			return out, err
		}
		out.Keys[name] = key
	}
	return out, nil
}
