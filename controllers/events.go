package controllers

import (
	"iter"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// maxNote is what the API server takes of an Event's note, in bytes.
const maxNote = 1024

// tell records an Event for a change of Accepted, and of Programmed where somebody refused the object: that an object is refused,
// and that it no longer is. A new object that is in order is no news.
func (s *status) tell(c *change) {
	before := statusOf(c.held).Conditions
	for _, kind := range []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionProgrammed} {
		now, was := meta.FindStatusCondition(c.status.Conditions, kind), meta.FindStatusCondition(before, kind)
		switch {
		case bad(now) && (!bad(was) || was.Reason != now.Reason || was.Message != now.Message):
			s.events.Eventf(c.held, nil, corev1.EventTypeWarning, now.Reason, "Judge", "%s", short(now.Message))
		case c.object.Kind == policy.KindGateway && now.Reason == v1alpha1.ReasonNoDataPlane && was != nil && was.Status == metav1.ConditionTrue:
			s.events.Eventf(c.held, nil, corev1.EventTypeWarning, now.Reason, "Judge", "%s", short(now.Message))
		case bad(was) && now.Status == metav1.ConditionTrue:
			s.events.Eventf(c.held, nil, corev1.EventTypeNormal, now.Reason, "Judge", "%s", short(now.Message))
		}
	}
}

// bad reports whether a condition says that somebody must do something.
func bad(c *metav1.Condition) bool {
	if c == nil || c.Status != metav1.ConditionFalse {
		return false
	}
	return !slices.Contains([]string{v1alpha1.ReasonPending, v1alpha1.ReasonNotAccepted, v1alpha1.ReasonNoDataPlane}, c.Reason)
}

func short(s string) string {
	if len(s) <= maxNote {
		return s
	}
	return strings.ToValidUTF8(s[:maxNote-3], "") + "..."
}

// changes compares two compilations: edited are the objects that somebody wrote, other those of which something else is said
// now. Those that are gone are not among them.
func changes(before, now *compilation) (edited, other []policy.Object) {
	if before == nil {
		return objectsOf(now), nil
	}
	for o := range concerned(before, now) {
		v, _ := now.verdict(o)
		switch was, known := before.verdict(o); {
		case !known || was.UID != v.UID || was.Generation != v.Generation:
			edited = append(edited, o)
		case !slices.Equal(was.Problems, v.Problems) || notesDiffer(before, now, o) || keysDiffer(before.table, now.table, o) || tiersDiffer(before.table, now.table, o):
			other = append(other, o)
		}
	}
	return edited, other
}

// concerned yields all objects of which something else may be said: of quotas, which may be many, only those that were made anew.
func concerned(before, now *compilation) iter.Seq[policy.Object] {
	return func(yield func(policy.Object) bool) {
		for name := range now.table.Renewed(before.table) {
			if !yield(policy.Object{Kind: policy.KindQuota, Name: name}) {
				return
			}
		}
		for i := range now.verdicts {
			if o := now.verdicts[i].Object; o.Kind != policy.KindQuota && !yield(o) {
				return
			}
		}
	}
}

func notesDiffer(before, now *compilation, o policy.Object) bool {
	return len(before.notes)+len(now.notes) > 0 && !slices.Equal(before.notes[o], now.notes[o])
}

// keysDiffer reports whether the keys of a quota are others, as those in Secrets can be without a change of the quota.
func keysDiffer(before, now *policy.Table, o policy.Object) bool {
	return o.Kind == policy.KindQuota && !slices.EqualFunc(keysOf(before, o.Name), keysOf(now, o.Name), func(a, b policy.AcceptedKey) bool {
		return a.Digest == b.Digest && a.Name == b.Name
	})
}

// tiersDiffer reports whether the tiers that a gateway assigns say something else, which is kept with the gateway.
func tiersDiffer(before, now *policy.Table, o policy.Object) bool {
	if o.Kind != policy.KindGateway {
		return false
	}
	was, _ := before.AcceptedGateway(o.Name)
	is, _ := now.AcceptedGateway(o.Name)
	return len(was.Tiers)+len(is.Tiers) > 0 && !equality.Semantic.DeepEqual(was.Tiers, is.Tiers)
}

func keysOf(t *policy.Table, quota policy.Name) []policy.AcceptedKey {
	if record := t.AcceptedQuota(quota); record != nil {
		return record.Keys
	}
	return nil
}
