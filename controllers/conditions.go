package controllers

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// maxMessage is what the API server takes of a condition's message, in bytes.
const maxMessage = 32768

// An observation is what is known of one object.
type observation struct {
	verdict policy.Verdict
	notes   []policy.Note
	goesOn  bool   // it is not accepted, and in force as it was accepted last
	refusal string // why requests are refused though it is in force
	since   uint64
	before  []metav1.Condition
}

// conditions says what the object's conditions are, but for their times.
func (o *observation) conditions(d *dataPlane) []metav1.Condition {
	accepted := o.accepted()
	programmed := o.programmed(d)
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, Message: "The object is in force as written."}
	if o.refusal != "" {
		ready.Message += " " + o.refusal
	}
	switch {
	case accepted.Status == metav1.ConditionFalse:
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, v1alpha1.ReasonNotAccepted, accepted.Message
	case programmed.Status == metav1.ConditionFalse:
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, v1alpha1.ReasonNotProgrammed, programmed.Message
	}
	all := []metav1.Condition{accepted, programmed, ready}
	for i := range all {
		all[i].ObservedGeneration = o.verdict.Generation
		all[i].Message = bounded(all[i].Message)
	}
	return all
}

func (o *observation) accepted() metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAccepted, Message: "The object counts as written."}
	if o.verdict.Accepted() {
		for _, n := range o.notes {
			c.Message += fmt.Sprintf(" Note %s: %s", n.Field, n.Message)
		}
		return c
	}
	c.Status, c.Reason = metav1.ConditionFalse, o.verdict.Problems[0].Reason
	lines := make([]string, 0, len(o.verdict.Problems))
	for _, p := range o.verdict.Problems {
		lines = append(lines, p.Field+": "+p.Message)
	}
	c.Message = strings.Join(lines, " ")
	return c
}

// programmed says whether everyone has the object in force who enforces it. Once they have, somebody who joins and has not yet
// changes nothing, and neither does a moment in which nobody is connected.
func (o *observation) programmed(d *dataPlane) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionFalse}
	who, rejection := d.services, d.refused[o.verdict.Object]
	reason, whose := v1alpha1.ReasonServiceRejected, "replicas of the rate-limit service"
	if o.verdict.Object.Kind == policy.KindGateway {
		who = d.envoys(o.verdict.Object.Name)
		rejection, reason, whose = who.rejected, v1alpha1.ReasonEnvoyRejected, "Envoys"
	}
	had, stands := o.had(), o.stands(who)
	switch {
	case !o.verdict.Accepted():
		c.Reason, c.Message = v1alpha1.ReasonNotAccepted, notInForce[o.verdict.Object.Kind]
		if o.goesOn {
			c.Message = "The object is not accepted; its limits, or what it serves, go on as they were accepted last (status.lastAccepted)."
		}
	case rejection != "":
		c.Reason, c.Message = reason, rejection
	case who.presence == gone && !d.cut:
		c.Reason, c.Message = v1alpha1.ReasonNoDataPlane, fmt.Sprintf("No %s are connected.", whose)
	case had || who.presence == present && who.seen.reaches(o.verdict.Object.Kind, o.since) && len(d.unreadable) == 0 && !d.cut:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonProgrammed, fmt.Sprintf("All %s have acknowledged this generation.", whose)
	case stands != nil:
		c.Reason, c.Message = stands.Reason, stands.Message
	case who.untold != "":
		c.Reason, c.Message = v1alpha1.ReasonPending, who.untold
	case len(d.unreadable) > 0:
		c.Reason, c.Message = v1alpha1.ReasonPending, fmt.Sprintf("A replica of the operator says what this one cannot read: %s.", strings.Join(d.unreadable, "; "))
	case d.cut:
		c.Reason, c.Message = v1alpha1.ReasonPending, "So much was refused that not all of it is told, and this object may be among it: see the objects that say ServiceRejected or EnvoyRejected."
	default:
		c.Reason, c.Message = v1alpha1.ReasonPending, fmt.Sprintf("Not all %s have acknowledged this generation yet.", whose)
	}
	return c
}

// notInForce says what becomes of objects that are not accepted, and were not before.
var notInForce = map[string]string{
	policy.KindTier:    "The plan is not accepted, so nobody can use it.",
	policy.KindModel:   "The object does not count as written; condition Accepted says what of it holds.",
	policy.KindQuota:   "The quota was never accepted, so requests with its keys are answered 401.",
	policy.KindUser:    "The object is not accepted, so it limits nobody.",
	policy.KindGateway: "The gateway was never accepted as written; what of it is in order may be served.",
}

// had reports whether the generation was in force already.
func (o *observation) had() bool {
	c := meta.FindStatusCondition(o.before, v1alpha1.ConditionProgrammed)
	return c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == o.verdict.Generation
}

// stands is what was said against the generation and nobody has taken back; nil: nothing. A refusal stands until the object is in
// force, and that nobody is connected while somebody may be about to: an operator that has just started knows of neither.
func (o *observation) stands(who enforcers) *metav1.Condition {
	c := meta.FindStatusCondition(o.before, v1alpha1.ConditionProgrammed)
	if c == nil || c.ObservedGeneration != o.verdict.Generation {
		return nil
	}
	switch c.Reason {
	case v1alpha1.ReasonEnvoyRejected, v1alpha1.ReasonServiceRejected:
		return c
	case v1alpha1.ReasonNoDataPlane:
		if who.presence == awaited {
			return c
		}
	}
	return nil
}

// bounded cuts a message at what the API server takes.
func bounded(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage-len("…")], "") + "…"
}

// timed sets the times: a condition keeps the one since which it has its status.
func timed(all, before []metav1.Condition, now metav1.Time) {
	for i := range all {
		all[i].LastTransitionTime = now
		if last := meta.FindStatusCondition(before, all[i].Type); last != nil && last.Status == all[i].Status {
			all[i].LastTransitionTime = last.LastTransitionTime
		}
	}
}
