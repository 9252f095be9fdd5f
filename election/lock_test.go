package election

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// TestNobodyReleasesTheLeaseOfAnother: a replica that stood still comes to release its lease when another has it.
func TestNobodyReleasesTheLeaseOfAnother(t *testing.T) {
	t.Parallel()
	set := fake.NewClientset()
	of := func(identity string) *lock {
		return &lock{Interface: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: "default", Name: "work"}, Client: set.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
		}}
	}
	update := func(l *lock, holder string) error {
		if _, _, err := l.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
		return l.Update(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: holder})
	}
	former, next := of("former"), of("next")
	if err := former.Create(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: "former"}); err != nil {
		t.Fatal(err)
	}
	if err := update(next, "next"); err != nil {
		t.Fatal(err)
	}
	if err := update(former, ""); err == nil {
		t.Error("the former holder has released the lease of the next")
	}
	if record, _, err := next.Get(t.Context()); err != nil || record.HolderIdentity != "next" {
		t.Errorf("the holder is %+v (%v), want next", record, err)
	}
	if err := update(next, ""); err != nil {
		t.Errorf("the holder cannot release its own: %v", err)
	}
}
