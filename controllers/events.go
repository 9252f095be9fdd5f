package controllers

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
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
	return s[:maxNote-3] + "..."
}

// changes compares two compilations: edited are the objects that somebody wrote, other those of which something else is said
// now. Those that are gone are not among them.
func changes(before, now *compilation) (edited, other []policy.Object) {
	var old []policy.Verdict
	var lastAccepted, accepted policy.Accepted
	accepted = now.table.Accepted()
	if before != nil {
		old, lastAccepted = before.verdicts, before.table.Accepted()
	}
	for i := range now.verdicts {
		v := &now.verdicts[i]
		for len(old) > 0 && compareObjects(old[0].Object, v.Object) < 0 {
			old = old[1:]
		}
		switch {
		case len(old) == 0 || compareObjects(old[0].Object, v.Object) != 0 || old[0].Generation != v.Generation:
			edited = append(edited, v.Object)
		case !slices.Equal(old[0].Problems, v.Problems) || notesDiffer(before, now, v.Object) || keysDiffer(&lastAccepted, &accepted, v.Object):
			other = append(other, v.Object)
		}
	}
	return edited, other
}

func notesDiffer(before, now *compilation, o policy.Object) bool {
	return len(before.notes)+len(now.notes) > 0 && !slices.Equal(before.notes[o], now.notes[o])
}

// keysDiffer reports whether the keys of a quota are others, as those in Secrets can be without a change of the quota.
func keysDiffer(before, now *policy.Accepted, o policy.Object) bool {
	if o.Kind != policy.KindQuota {
		return false
	}
	name := o.Name.String()
	return !slices.EqualFunc(before.Quotas[name].Keys, now.Quotas[name].Keys, func(a, b policy.AcceptedKey) bool {
		return cmp.Compare(a.Digest, b.Digest) == 0 && a.Name == b.Name
	})
}
