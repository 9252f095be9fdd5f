package controllers

import (
	"encoding/json"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// quotaRecord is what status.lastAccepted.spec of an ApiKeyQuota holds: the part of its spec that goes on. Of keys in Secrets it
// has the digests, so that they outlive their Secrets.
type quotaRecord struct {
	v1alpha1.KeyLimits `json:",inline"`

	Keys        []policy.AcceptedKey `json:"keys,omitempty"`
	TierRef     v1alpha1.Ref         `json:"tierRef"`
	User        string               `json:"user,omitempty"`
	Enforcement v1alpha1.Enforcement `json:"enforcement,omitempty"`
}

// tierRecords is what status.lastAccepted.tiers holds, by name.
type tierRecords map[string]v1alpha1.RateLimitTierSpec

// lastAccepted is what goes before what this replica remembers, which its newest table has. Where the operator has refused an
// object as it is now, status goes first, because all replicas read it. Elsewhere it is for what this replica never saw.
func lastAccepted(newest *policy.Table, quotas []*v1alpha1.ApiKeyQuota, gateways []*v1alpha1.QuotaGateway) policy.Accepted {
	says := policy.Accepted{
		Quotas: map[string]policy.AcceptedQuota{}, Gateways: map[string]policy.AcceptedGateway{}, Tiers: map[string]policy.AcceptedTier{},
	}
	for _, q := range quotas {
		if q.Status.LastAccepted == nil {
			continue
		}
		known := newest.AcceptedQuota(objectName(q))
		if known != nil && known.UID == q.UID && !overrules(&q.Status.ObjectStatus, q.Generation, q.Status.LastAccepted, known.Generation) {
			continue
		}
		if record, tier, ok := readQuota(q.Status.LastAccepted); ok {
			record.UID = q.UID
			says.Quotas[objectName(q).String()] = record
			if tier != nil {
				says.Tiers[record.Tier] = *tier
			}
		}
	}
	for _, g := range gateways {
		if g.Status.LastAccepted == nil {
			continue
		}
		known, remembered := newest.AcceptedGateway(objectName(g))
		if remembered && known.UID == g.UID && !overrules(&g.Status.ObjectStatus, g.Generation, g.Status.LastAccepted, known.Generation) {
			continue
		}
		if record, ok := readGateway(g.Status.LastAccepted); ok {
			record.UID = g.UID
			says.Gateways[objectName(g).String()] = record
		}
	}
	return says
}

// overrules reports whether status goes before what is remembered from a generation.
func overrules(s *v1alpha1.ObjectStatus, generation int64, last *v1alpha1.LastAccepted, from int64) bool {
	return last.Generation != from && refused(s, generation)
}

// refused reports whether the operator has refused the object as it is now.
func refused(s *v1alpha1.ObjectStatus, generation int64) bool {
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionAccepted)
	return c != nil && c.Status == metav1.ConditionFalse && c.ObservedGeneration == generation
}

// readQuota reads what quotaLastAccepted wrote. What another version wrote and this one cannot read counts as nothing.
func readQuota(last *v1alpha1.LastAccepted) (record policy.AcceptedQuota, tier *policy.AcceptedTier, ok bool) {
	var spec quotaRecord
	if last.Spec == nil || json.Unmarshal(last.Spec.Raw, &spec) != nil || spec.TierRef.Name == "" {
		return record, nil, false
	}
	record = policy.AcceptedQuota{
		Generation: last.Generation, Limits: spec.KeyLimits, User: spec.User, Enforcement: spec.Enforcement, Keys: spec.Keys,
		Tier: spec.TierRef.Name,
	}
	var tiers tierRecords
	if last.Tiers != nil && json.Unmarshal(last.Tiers.Raw, &tiers) == nil {
		if former, known := tiers[spec.TierRef.Name]; known {
			tier = &policy.AcceptedTier{Name: spec.TierRef.Name, Spec: former}
			record.Tier = tier.Key()
		}
	}
	return record, tier, true
}

func readGateway(last *v1alpha1.LastAccepted) (record policy.AcceptedGateway, ok bool) {
	record.Generation = last.Generation
	if last.Spec == nil || json.Unmarshal(last.Spec.Raw, &record.Spec) != nil || len(record.Spec.Listeners) == 0 {
		return record, false
	}
	var tiers tierRecords
	if last.Tiers != nil && json.Unmarshal(last.Tiers.Raw, &tiers) == nil {
		record.Tiers = tiers
	}
	return record, true
}

// quotaLastAccepted is what to write of a quota that is accepted, or goes on; nil if there is nothing to go on with. The tier is
// written only where the quota is not accepted: it may be gone by the next start.
func quotaLastAccepted(t *policy.Table, name policy.Name, accepted bool) *v1alpha1.LastAccepted {
	record := t.AcceptedQuota(name)
	if record == nil || record.Generation == 0 {
		return nil
	}
	tier, kept := t.AcceptedTier(record.Tier)
	if !kept {
		return nil
	}
	out := &v1alpha1.LastAccepted{Generation: record.Generation, Spec: raw(quotaRecord{
		KeyLimits: record.Limits, Keys: record.Keys, TierRef: v1alpha1.Ref{Name: tier.Name}, User: record.User, Enforcement: record.Enforcement,
	})}
	if !accepted {
		out.Tiers = raw(tierRecords{tier.Name: tier.Spec})
	}
	return out
}

// gatewayLastAccepted is what to write of a gateway that is accepted, or goes on.
func gatewayLastAccepted(t *policy.Table, name policy.Name) *v1alpha1.LastAccepted {
	record, known := t.AcceptedGateway(name)
	if !known || record.Generation == 0 {
		return nil
	}
	out := &v1alpha1.LastAccepted{Generation: record.Generation, Spec: raw(record.Spec)}
	if len(record.Tiers) > 0 {
		out.Tiers = raw(tierRecords(record.Tiers))
	}
	return out
}

// raw writes JSON as the API server gives it back: the fields of each object in order.
func raw(v any) *runtime.RawExtension {
	text, err := json.Marshal(v)
	var plain any
	if err == nil {
		err = json.Unmarshal(text, &plain)
	}
	if err == nil {
		text, err = json.Marshal(plain)
	}
	if err != nil {
		panic(err) // API types are written and read by JSON.
	}
	return &runtime.RawExtension{Raw: text}
}
