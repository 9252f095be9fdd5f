package controllers

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// BenchmarkOneChange is what it costs to gather, compile and compare when one quota of many has changed. Half of them have their
// keys in Secrets, and all were accepted before.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			if n > 10_000 && testing.Short() {
				b.Skip("takes seconds; run it without -short")
			}
			g, quotas := newTestGatherer(&v1alpha1.RateLimitTier{ObjectMeta: metav1.ObjectMeta{Name: "free", UID: "free", Generation: 1}}), make([]*v1alpha1.ApiKeyQuota, n)
			for i := range n {
				quotas[i] = benchQuota(i)
				if ref := quotas[i].Spec.Keys[0].SecretKeyRef; ref != nil {
					g.note(secretOf(b, policy.Name{Namespace: quotas[i].Namespace, Name: ref.Name}, "1", fmt.Sprint("sk-", i)), true)
				}
				g.note(quotas[i], true)
			}
			var (
				compiler policy.Compiler
				before   *compilation
			)
			compile := func() {
				in, err := g.gather(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				in.LastAccepted = lastAccepted(before.remembers(), in.Quotas, in.Gateways)
				now := &compilation{}
				now.table, now.verdicts = compiler.Compile(in)
				now.notes = notesOn(&in, now.verdicts)
				changes(before, now)
				before = now
			}
			compile()
			for i, q := range quotas {
				quotas[i] = q.DeepCopy()
				quotas[i].Status.LastAccepted = quotaLastAccepted(before.table, objectName(q), true)
				g.note(quotas[i], true)
			}
			states := []v1alpha1.DesiredState{v1alpha1.DesiredStateSuspended, v1alpha1.DesiredStateActive}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				at := i * 7 % n
				quotas[at] = quotas[at].DeepCopy()
				quotas[at].Spec.DesiredState = states[i%2]
				quotas[at].Generation++
				g.note(quotas[at], true)
				compile()
			}
		})
	}
}

func benchQuota(i int) *v1alpha1.ApiKeyQuota {
	q := &v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{
		Namespace: fmt.Sprint("team-", i%500), Name: fmt.Sprint("key-", i), UID: types.UID(fmt.Sprint(i)), Generation: 1,
	}}
	q.Spec.TierRef.Name = "free"
	key := v1alpha1.APIKey{Name: "main", Digest: policy.HashKey(fmt.Append(nil, "sk-", i)).String()}
	if i%2 == 0 {
		key = v1alpha1.APIKey{Name: "main", SecretKeyRef: &v1alpha1.SecretKeyRef{Name: q.Name, Key: "key"}}
	}
	q.Spec.Keys = []v1alpha1.APIKey{key}
	return q
}
