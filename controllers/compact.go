package controllers

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// compact decides in which form objects of ours are kept in memory, where there may be many: without what the operator does not
// read, and with each text that many of them have kept once. It is safe for concurrent use.
type compact struct {
	mu    sync.Mutex
	texts map[string]string
}

// maxTexts is how many texts are known at once: what users write has no bound.
const maxTexts = 10_000

func newCompact() *compact { return &compact{texts: map[string]string{}} }

// once returns an equal text that others have, too, if anybody does.
func (c *compact) once(text string) string {
	if text == "" {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.texts[text]; ok {
		return known
	}
	if len(c.texts) >= maxTexts {
		clear(c.texts)
	}
	c.texts[text] = text
	return text
}

// keep drops who wrote which field, and annotations, of which kubectl's repeats the object, as well as what the rate-limit service
// writes into status: together they are most of a small object.
func (c *compact) keep(object any) (any, error) {
	o, ok := object.(client.Object)
	if !ok {
		return object, nil // It was deleted while nobody watched, and only its name is left.
	}
	o.SetManagedFields(nil)
	o.SetAnnotations(nil)
	o.SetNamespace(c.once(o.GetNamespace()))
	c.keepStatus(statusOf(o))
	switch o := o.(type) {
	case *v1alpha1.ApiKeyQuota:
		o.Status.Usage = nil
		c.keepType(&o.TypeMeta)
		c.keepSpec(&o.Spec)
	case *v1alpha1.UserQuota:
		o.Status.Usage = nil
		c.keepType(&o.TypeMeta)
	}
	return o, nil
}

func (c *compact) keepType(t *metav1.TypeMeta) {
	t.Kind, t.APIVersion = c.once(t.Kind), c.once(t.APIVersion)
}

// keepSpec leaves the user alone, which is as good as a name.
func (c *compact) keepSpec(spec *v1alpha1.ApiKeyQuotaSpec) {
	spec.TierRef.Name = c.once(spec.TierRef.Name)
	spec.Keys = slices.Clone(spec.Keys) // A decoder makes room for more.
	for i := range spec.Keys {
		spec.Keys[i].Name = c.once(spec.Keys[i].Name)
	}
}

// keepStatus keeps the conditions that the operator writes.
func (c *compact) keepStatus(status *v1alpha1.ObjectStatus) {
	var own []metav1.Condition
	for _, kind := range []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionProgrammed, v1alpha1.ConditionReady} {
		i := slices.IndexFunc(status.Conditions, func(held metav1.Condition) bool { return held.Type == kind })
		if i < 0 {
			continue
		}
		held := status.Conditions[i]
		held.Type, held.Status = kind, metav1.ConditionStatus(c.once(string(held.Status)))
		held.Reason, held.Message = c.once(held.Reason), c.once(held.Message)
		own = append(own, held)
	}
	status.Conditions = slices.Clone(own)
}
