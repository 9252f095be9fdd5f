package controllers

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// Seen is what counts for the ApiKeyQuotas of one namespace, as far as somebody may see it.
type Seen struct {
	policy.Input

	Refused map[policy.Name]string   // why the operator has refused an ApiKeyQuota as it is now, as "REASON: MESSAGE"
	Notes   map[policy.Name][]string // what else somebody must know of an ApiKeyQuota who reads what holds; each is a sentence without its full stop
}

// Once reads what counts for the ApiKeyQuotas of one namespace, as somebody may who has no right to Secrets. Which quotas are
// accepted, and what those go on with that are refused, it takes from their status: in the Input an accepted one has keys that are
// made up, and a refused one has a key that cannot be read. Namespaces, and gateways of other namespaces, are left out where they
// may not be read, and notes say so. The error names what could not be read.
func Once(ctx context.Context, c client.Reader, namespace string) (*Seen, error) {
	s := &Seen{Refused: map[policy.Name]string{}, Notes: map[policy.Name][]string{}}
	labelled, err := s.read(ctx, c, namespace)
	if err != nil {
		return nil, fmt.Errorf("reading the cluster: %w", err)
	}
	s.LastAccepted = lastAccepted(&policy.Table{}, s.Quotas, s.Gateways)
	for _, q := range s.Quotas {
		s.believe(q)
	}
	for _, t := range s.Tiers {
		s.noteUnjudged(t)
	}
	if !labelled {
		s.admit(namespace)
	}
	return s, nil
}

// read reports whether namespaces, and so their labels, may be listed.
func (s *Seen) read(ctx context.Context, c client.Reader, namespace string) (labelled bool, err error) {
	var o objects
	own := client.InNamespace(namespace)
	for _, list := range []struct {
		client.ObjectList
		options []client.ListOption
	}{
		{&o.tiers, nil}, {&o.models, nil}, {&o.quotas, []client.ListOption{own}}, {&o.users, []client.ListOption{own}},
	} {
		if err := c.List(ctx, list.ObjectList, list.options...); err != nil {
			return false, err
		}
	}
	if labelled, err = mayList(ctx, c, &o.namespaces); err != nil {
		return false, err
	}
	everywhere, err := mayList(ctx, c, &o.gateways)
	here := everywhere
	if err == nil && !everywhere {
		here, err = mayList(ctx, c, &o.gateways, own)
	}
	s.Input = o.input()
	switch {
	case !here:
		s.noteOnAll("QuotaGateways are left out, because you may not list them; which ModelLimits count there is not known")
	case !everywhere:
		s.noteOnAll("QuotaGateways of other namespaces are left out, because you may not list them; which ModelLimits count there is not known")
	}
	return labelled, err
}

// mayList lists what something can be said without.
func mayList(ctx context.Context, c client.Reader, list client.ObjectList, options ...client.ListOption) (bool, error) {
	err := c.List(ctx, list, options...)
	if apierrors.IsForbidden(err) {
		return false, nil
	}
	return err == nil, err
}

// judgement is what the operator says of an object as it is now; nil: nothing yet.
func judgement(s *v1alpha1.ObjectStatus, generation int64) *metav1.Condition {
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionAccepted)
	if c == nil || c.ObservedGeneration != generation {
		return nil
	}
	return c
}

// believe has a quota compiled to what the operator says of it: its keys cannot be read here, nor those of other namespaces.
func (s *Seen) believe(q *v1alpha1.ApiKeyQuota) {
	name := objectName(q)
	switch c := judgement(&q.Status.ObjectStatus, q.Generation); {
	case c == nil:
		s.note(q, unjudged(policy.KindQuota, q))
		makeUpKeys(q)
	case c.Status == metav1.ConditionTrue:
		makeUpKeys(q)
	default:
		s.Refused[name] = c.Reason + ": " + c.Message
		if last := q.Status.LastAccepted; last != nil {
			s.note(q, fmt.Sprintf("ApiKeyQuota %s: not accepted: %s; it goes on as it was accepted last (generation %d)",
				name, strings.TrimSuffix(s.Refused[name], "."), last.Generation))
		}
		refuse(q)
	}
}

// makeUpKeys gives a quota keys that nobody else has.
func makeUpKeys(q *v1alpha1.ApiKeyQuota) {
	for i := range q.Spec.Keys {
		k := &q.Spec.Keys[i]
		k.SecretKeyRef, k.Digest = nil, policy.HashKey(fmt.Appendf(nil, "%s %s", objectName(q), k.Name)).String()
	}
}

// refuse gives a quota a key that cannot be read, whatever it was refused for: here that might be in order.
func refuse(q *v1alpha1.ApiKeyQuota) {
	q.Spec.Keys = []v1alpha1.APIKey{{Name: "refused", SecretKeyRef: &v1alpha1.SecretKeyRef{Name: "refused", Key: "refused"}}}
}

func unjudged(kind string, o client.Object) string {
	return fmt.Sprintf("%s: the operator has not judged generation %d yet; this is what would hold", policy.Object{Kind: kind, Name: objectName(o)}, o.GetGeneration())
}

// noteUnjudged notes on the quotas of a tier that it is not in force as it is.
func (s *Seen) noteUnjudged(t *v1alpha1.RateLimitTier) {
	if judgement(&t.Status.ObjectStatus, t.Generation) == nil {
		s.noteOn(t.Name, unjudged(policy.KindTier, t))
	}
}

// admit says of tiers and gateways that ask for labels of namespaces, which cannot be read, whether they admit the namespace: what
// the operator found for quotas on the tier. Where that is not known they are taken to, and a note says so.
func (s *Seen) admit(namespace string) {
	const unknown = "%s: whether it admits namespace %s is not known, because you may not list namespaces; here it does"
	for _, t := range s.Tiers {
		n := t.Spec.AllowedNamespaces
		if n == nil || n.From != v1alpha1.TierNamespacesSelector {
			continue
		}
		from := v1alpha1.TierNamespacesAll
		switch admitted, known := s.admitted(t.Name); {
		case !known:
			s.noteOn(t.Name, fmt.Sprintf(unknown, policy.Object{Kind: policy.KindTier, Name: objectName(t)}, namespace))
		case !admitted:
			from = v1alpha1.TierNamespacesNone
		}
		t.Spec.AllowedNamespaces = &v1alpha1.TierNamespaces{From: from, Selector: n.Selector}
	}
	for _, g := range s.Gateways {
		k := g.Spec.AllowedKeys
		if k == nil || k.Namespaces.From != v1alpha1.NamespacesSelector {
			continue
		}
		s.noteOnAll(fmt.Sprintf(unknown, policy.Object{Kind: policy.KindGateway, Name: objectName(g)}, namespace))
		g.Spec.AllowedKeys = &v1alpha1.AllowedKeys{Namespaces: v1alpha1.Namespaces{From: v1alpha1.NamespacesAll, Selector: k.Namespaces.Selector}}
	}
}

// admitted is whether the operator has found that a tier admits the namespace. Not known: it has judged no quota by that.
func (s *Seen) admitted(tier string) (admitted, known bool) {
	for _, q := range s.Quotas {
		c := judgement(&q.Status.ObjectStatus, q.Generation)
		switch {
		case c == nil || q.Spec.TierRef.Name != tier:
		case c.Status == metav1.ConditionTrue:
			return true, true
		case c.Reason == v1alpha1.ReasonTierNotPermitted:
			known = true
		}
	}
	return false, known
}

func (s *Seen) note(q *v1alpha1.ApiKeyQuota, text string) {
	s.Notes[objectName(q)] = append(s.Notes[objectName(q)], text)
}

func (s *Seen) noteOnAll(text string) {
	for _, q := range s.Quotas {
		s.note(q, text)
	}
}

// noteOn notes it on all quotas of a tier.
func (s *Seen) noteOn(tier, text string) {
	for _, q := range s.Quotas {
		if q.Spec.TierRef.Name == tier {
			s.note(q, text)
		}
	}
}
