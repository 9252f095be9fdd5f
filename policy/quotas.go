package policy

import (
	"bytes"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// compileQuotas gives every digest an owner first: a key that any quota names belongs to that quota, accepted or not.
func (c *compiler) compileQuotas() {
	quotas := byAge(c.in.Quotas, func(q *v1alpha1.ApiKeyQuota) *metav1.ObjectMeta { return &q.ObjectMeta })
	claims := c.claim(quotas)
	for _, q := range quotas {
		c.compileQuota(q, claims)
	}
}

// claim gives each digest to the oldest quota that names it. Objects from files have no age: among equals the one that had
// the digest before keeps it, so that nobody takes a key by a name that sorts first.
func (c *compiler) claim(quotas []*v1alpha1.ApiKeyQuota) map[Digest]Name {
	claims := make(map[Digest]Name, len(quotas))
	owners := make(map[Digest]*v1alpha1.ApiKeyQuota, len(quotas))
	for _, q := range quotas {
		for i := range q.Spec.Keys {
			d, known, _ := c.digest(q, &q.Spec.Keys[i])
			if !known {
				continue
			}
			owner, taken := owners[d]
			if taken && (!owner.CreationTimestamp.Equal(&q.CreationTimestamp) || c.had(owner, d) || !c.had(q, d)) {
				continue
			}
			owners[d], claims[d] = q, nameOf(&q.ObjectMeta)
		}
	}
	return claims
}

// had reports whether the quota held the digest when it was last accepted.
func (c *compiler) had(q *v1alpha1.ApiKeyQuota, d Digest) bool {
	last := c.in.LastAccepted.Quotas[nameOf(&q.ObjectMeta).String()]
	return slices.ContainsFunc(last.Keys, func(k AcceptedKey) bool { return k.Digest == d.String() })
}

func (c *compiler) compileQuota(q *v1alpha1.ApiKeyQuota, claims map[Digest]Name) {
	name := nameOf(&q.ObjectMeta)
	cred := &Credential{Quota: name}
	problems := slices.Concat(c.checkKeys(q, claims), c.checkTier(q.Namespace, q.Spec.TierRef.Name, "spec.tierRef.name"))
	if len(problems) == 0 {
		problems = c.compileHolder(q, cred)
	}
	if len(problems) > 0 {
		c.goOn(cred)
	}
	c.judge(KindQuota, &q.ObjectMeta, problems...)

	switch {
	case q.Spec.DesiredState == v1alpha1.DesiredStateSuspended:
		cred.standing = Suspended
	case cred.Holder == nil:
		cred.standing = Pending
	}
	if q.Spec.ExpirationTime != nil {
		cred.expires = q.Spec.ExpirationTime.UTC()
	}
	c.table.quotas.set(name, cred)
	var keys []AcceptedKey
	for i := range q.Spec.Keys {
		k := &q.Spec.Keys[i]
		if d, known, _ := c.digest(q, k); known && claims[d] == name && !slices.Contains(cred.digests, d) {
			c.table.keys.set(d, cred)
			cred.digests = append(cred.digests, d)
			keys = append(keys, AcceptedKey{k.Name, d.String(), k.SecretKeyRef})
		}
	}
	slices.SortFunc(cred.digests, func(a, b Digest) int { return bytes.Compare(a[:], b[:]) })
	if t := c.compiled[q.Spec.TierRef.Name]; len(problems) == 0 {
		c.table.accepted.remember(q, t, &c.tiers[t.ref.Name].Spec)
	}
	c.table.accepted.follow(q, keys)
}

// goOn gives a quota that is not accepted the limits that it had, if it had any.
func (c *compiler) goOn(cred *Credential) {
	name := cred.Quota.String()
	last, known := c.in.LastAccepted.Quotas[name]
	tier, kept := c.in.LastAccepted.Tiers[last.Tier]
	switch {
	case !known:
		return
	case !kept && len(c.checkTier(cred.Quota.Namespace, last.Tier, "")) > 0:
		return // Of its tier nothing but the name is known.
	case !kept:
		tier = AcceptedTier{last.Tier, c.tiers[last.Tier].Spec}
		last.Tier = tier.Key()
	}
	c.table.accepted.Quotas[name], c.table.accepted.Tiers[last.Tier] = last, tier
	cred.Holder = c.lastHolder(cred.Quota, &last, &tier)
}

// compileHolder sets the credential's holder if what it may use is in order.
func (c *compiler) compileHolder(q *v1alpha1.ApiKeyQuota, cred *Credential) []Problem {
	t := c.compiled[q.Spec.TierRef.Name]
	h := c.holder(cred.Quota, &q.Spec.KeyLimits, q.Spec.Enforcement, q.Spec.User, t)
	h.Alerts, h.alerted = alerts(q.Spec.Alerts, t.alerts), q.Spec.Alerts != nil
	catalogs := c.catalogsFor(cred.Quota.Namespace)
	if p := c.checkOverrides(h, t, c.tiers[t.ref.Name].Spec.KeyOverrides, catalogs); p != nil {
		return []Problem{*p}
	}
	if p := c.checkSize(h, t, "spec", catalogs...); p != nil {
		return []Problem{*p}
	}
	cred.Holder = h
	return nil
}

// lastHolder is the holder of a quota that is not accepted: by its own limits when it was, and by its tier as it is now, so
// that nobody keeps an old plan by breaking his own object. Where the tier is gone or not permitted, it holds as it was.
// Tier, models and classes may have changed since: where the quota's own limits would now let more pass than the tier,
// the tier's hold as well.
func (c *compiler) lastHolder(name Name, last *AcceptedQuota, former *AcceptedTier) *Holder {
	t, overrides := c.compiled[former.Name], former.Spec.KeyOverrides
	if c.checkTier(name.Namespace, former.Name, "") == nil {
		overrides = c.tiers[former.Name].Spec.KeyOverrides
	} else {
		t = c.tierAs(last.Tier, former)
	}
	h := c.holder(name, &last.Limits, last.Enforcement, last.User, t)
	h.both = c.checkOverrides(h, t, overrides, c.catalogsFor(name.Namespace)) != nil
	return h
}

func (c *compiler) holder(name Name, limits *v1alpha1.KeyLimits, enforcement v1alpha1.Enforcement, userName string, t *tier) *Holder {
	var own *ruleset
	if !saysNothing(limits) {
		own = newRuleset(limits, enforcement, Origin{Kind: KindQuota, Namespace: name.Namespace, Name: name.Name})
	}
	var u *user
	if userName != "" {
		u = c.users[Name{name.Namespace, userName}]
	}
	return newHolder(name, own, t, u)
}

// digest finds the digest of one key of a quota, or says why there is none. A Secret that cannot be read any more is a problem,
// and its key goes on as it was read last: who means to end a key takes it out of the object.
func (c *compiler) digest(q *v1alpha1.ApiKeyQuota, k *v1alpha1.APIKey) (d Digest, known bool, p *Problem) {
	if k.SecretKeyRef == nil {
		d, ok := ParseDigest(k.Digest)
		if !ok {
			return d, false, &Problem{
				v1alpha1.ReasonKeyInvalid, fmt.Sprintf("spec.keys[name=%s].digest", k.Name),
				`The digest must be "sha256:" and 64 hexadecimal digits, as "tierkeeper keygen" prints it.`,
			}
		}
		return d, true, nil
	}
	key, p := c.in.readKey(SecretValue{Secret: Name{q.Namespace, k.SecretKeyRef.Name}, Key: k.SecretKeyRef.Key})
	if p == nil {
		return key.Digest, true, nil
	}
	p.Field = fmt.Sprintf("spec.keys[name=%s].secretKeyRef.%s", k.Name, p.Field)
	if d, known = c.in.LastAccepted.lastKey(q, k); known {
		p.Message += " The key goes on as it was read last; to end it, take it out of spec.keys."
	}
	return d, known, p
}

func (c *compiler) checkKeys(q *v1alpha1.ApiKeyQuota, claims map[Digest]Name) []Problem {
	var problems []Problem
	name := nameOf(&q.ObjectMeta)
	for i := range q.Spec.Keys {
		k := &q.Spec.Keys[i]
		d, _, p := c.digest(q, k)
		if p == nil && claims[d] != name {
			p = &Problem{
				v1alpha1.ReasonKeyClaimed, fmt.Sprintf("spec.keys[name=%s]", k.Name),
				"Another ApiKeyQuota, which goes first, holds the same API key" + ownNamespace(claims[d], name) + "; a key can belong to one quota only.",
			}
		}
		if p != nil {
			problems = append(problems, *p)
		}
	}
	return problems
}

// ownNamespace names the other quota only to those who may see it.
func ownNamespace(other, self Name) string {
	if other.Namespace != self.Namespace {
		return ""
	}
	return " (" + other.String() + ")"
}
