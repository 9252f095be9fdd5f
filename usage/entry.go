package usage

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// An entry is what is known of one object.
type entry struct {
	object policy.Object
	via    policy.Name // an ApiKeyQuota by which the Source tells its use

	says   Status // what the object says
	urgent bool   // a condition has changed, or there is somebody to tell
	tells  []message
	told   map[string]told // by id of the limit

	// When the conditions were last found to be True, whatever they say.
	approached, exhausted time.Time

	read   uint64    // the last reading in which the object said anything
	seen   uint64    // the pass in which it was last looked at
	tried  time.Time // when it was last written, or should have been
	next   time.Time // when to look again; zero: not before somebody uses it
	missed bool      // the Source did not know it the last time
	lost   bool      // it did not for so long that nothing is used
	active bool      // it was used since it was looked at

	due, pending int // its places in the lines of the Reporter
}

// A message is one that people get once the status says it too.
type message struct {
	id     string // of the limit
	told          // the threshold, and when the window ends
	passed []int  // all thresholds that are news, that one included
	text   string
}

// told is what people know of a limit: the part, in percent, up to which they were told in the window that ends at reset.
type told struct {
	percent int
	reset   time.Time
}

// newEntry is for an object that says s now. What it says was told, and not later than now, wherever the clock stood of whoever
// wrote it.
func newEntry(o policy.Object, s Status, now time.Time) *entry {
	e := &entry{object: o, says: s, told: map[string]told{}, due: nowhere, pending: nowhere}
	if s.Usage == nil {
		return e
	}
	if e.tried = s.Usage.ObservationTime.Time; e.tried.After(now) {
		e.tried = now
	}
	for i := range s.Usage.Limits {
		l := &s.Usage.Limits[i]
		e.told[l.ID] = told{percent: percentOf(l), reset: resetOf(l)}
	}
	if meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionApproachingLimit) {
		e.approached = e.tried
	}
	if meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionExhausted) {
		e.exhausted = e.tried
	}
	return e
}

// quota is the ApiKeyQuota by which the Source tells the use.
func (e *entry) quota() policy.Name {
	if e.object.Kind == policy.KindQuota {
		return e.object.Name
	}
	return e.via
}

func resetOf(l *v1alpha1.LimitUsage) time.Time {
	if l.ResetTime == nil {
		return time.Time{}
	}
	return l.ResetTime.Time
}

// look decides what the object should say of the use, which is nil if it says all that there is to tell, and when to look again.
func (e *entry) look(u *ratelimit.Usage, now time.Time) *Status {
	limits := lasting(u.Limits)
	wants := &Status{Usage: newUsage(limits, now), Conditions: e.conditions(limits, u.Alerts, now)}
	e.tells = e.messages(limits, u.Alerts)
	e.urgent = len(e.tells) > 0 || turned(e.says.Conditions, wants.Conditions)
	e.next = e.again(limits, now)
	switch {
	case e.says.Usage == nil && idle(limits):
		e.urgent = false
		return nil
	case e.urgent || news(e.says.Usage, wants.Usage) || reworded(e.says.Conditions, wants.Conditions):
		return wants
	}
	return nil
}

// miss notes that the Source does not know the object. The table may not be there yet, or another quota tells of the same user.
func (e *entry) miss(now time.Time) { e.missed, e.next = true, now.Add(forgotten) }

// again is when what the object should say changes though nobody uses it: when a window ends, or a condition was held long enough.
func (e *entry) again(limits []ratelimit.LimitUse, now time.Time) (at time.Time) {
	first := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for i := range limits {
		if limits[i].Used > 0 {
			first(limits[i].Reset)
		}
	}
	first(e.approached.Add(hold))
	first(e.exhausted.Add(hold))
	return at
}

func (e *entry) conditions(limits []ratelimit.LimitUse, alerts []int, now time.Time) []metav1.Condition {
	near, out := approaching(limits, alerts), exhausted(limits)
	if near != "" {
		e.approached = now
	}
	if out != "" {
		e.exhausted = now
	}
	return []metav1.Condition{
		e.condition(v1alpha1.ConditionApproachingLimit, e.approached, near, now,
			v1alpha1.ReasonThresholdReached, v1alpha1.ReasonBelowThresholds, "The use of no limit has reached a threshold."),
		e.condition(v1alpha1.ConditionExhausted, e.exhausted, out, now,
			v1alpha1.ReasonLimitReached, v1alpha1.ReasonWithinLimits, "No limit is used up."),
	}
}

// condition is True for the reason that is given, if any, and stays so for a while after it was last True.
func (e *entry) condition(kind string, last time.Time, given string, now time.Time, reason, otherwise, message string) metav1.Condition {
	before := meta.FindStatusCondition(e.says.Conditions, kind)
	c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: otherwise, Message: message, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}
	switch {
	case given != "":
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, reason, given
	case before != nil && before.Status == metav1.ConditionTrue && now.Before(last.Add(hold)):
		c = *before
	}
	if before != nil && before.Status == c.Status {
		c.LastTransitionTime = before.LastTransitionTime
	}
	return c
}

// turned reports whether a condition has another status than before.
func turned(before, now []metav1.Condition) bool {
	return slices.ContainsFunc(now, func(c metav1.Condition) bool {
		return (c.Status == metav1.ConditionTrue) != meta.IsStatusConditionTrue(before, c.Type)
	})
}

// reworded reports whether a condition says another thing than before.
func reworded(before, now []metav1.Condition) bool {
	return slices.ContainsFunc(now, func(c metav1.Condition) bool {
		b := meta.FindStatusCondition(before, c.Type)
		return b == nil || b.Reason != c.Reason || b.Message != c.Message
	})
}

// differs reports whether an object says another thing than it was thought to.
func differs(thought, says Status) bool {
	return news(thought.Usage, says.Usage) || len(thought.Conditions) != len(says.Conditions) ||
		turned(thought.Conditions, says.Conditions) || reworded(thought.Conditions, says.Conditions)
}

// messages lists the thresholds that were not told yet, for each limit the highest.
func (e *entry) messages(limits []ratelimit.LimitUse, alerts []int) (list []message) {
	known := map[string]told{}
	for i := range limits {
		l := &limits[i]
		t := e.inWindow(l, alerts)
		if t.percent > 0 {
			known[l.ID()] = t
		}
		m := message{id: l.ID(), told: told{reached(l, alerts), l.Reset.Truncate(time.Second)}}
		if m.percent <= t.percent {
			continue
		}
		m.text = thresholdMessage(l, m.percent)
		m.passed = slices.DeleteFunc(slices.Clone(alerts), func(p int) bool { return p <= t.percent || p > m.percent })
		list = append(list, m)
	}
	e.told = known
	return list
}

// inWindow is what people know of the limit in its window. One that slides is a new one when its use was below every threshold.
func (e *entry) inWindow(l *ratelimit.LimitUse, alerts []int) told {
	t, reset := e.told[l.ID()], l.Reset.Truncate(time.Second)
	fresh := !t.reset.Equal(reset)
	if l.Algorithm == policy.SlidingWindow.String() {
		fresh = reached(l, alerts) == 0
	}
	if fresh {
		return told{reset: reset}
	}
	return t
}

// written notes that the object says s, and returns what people are to be told.
func (e *entry) written(s *Status) []message {
	tells := e.tells
	e.says, e.urgent, e.tells = *s, false, nil
	for _, m := range tells {
		e.told[m.id] = m.told
	}
	return tells
}
