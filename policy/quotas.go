package policy

import (
	"bytes"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// compileQuotas makes those quotas anew that do not stand as they are.
func (c *compilation) compileQuotas() {
	for _, h := range c.quotas {
		if q := c.in.Quotas[h.at]; !h.same || !c.stands(q, h) {
			c.compileQuota(q, h)
		}
	}
}

// claim gives each digest to one of the quotas that name it, accepted or not: to the one that had it when it was last accepted, so
// that nobody takes a key from another by naming it, and else to the oldest. Only the quotas that are given can claim something else
// than before.
func (c *compilation) claim(anew []*heldQuota) {
	c.anew = make([]Verdict, 0, len(anew))
	for _, h := range anew {
		c.held.withdraw(h)
	}
	for _, h := range anew {
		for _, k := range c.keysOf(h) {
			if k.known {
				h.claims = append(h.claims, k.digest)
				c.held.enter(h, k.digest)
			}
		}
	}
	for d, all := range c.held.rivals {
		owner := c.ownerOf(d, all)
		c.held.owners[d] = owner
		for _, h := range all {
			h.same = h.same && h == owner
		}
		if len(all) == 1 {
			delete(c.held.rivals, d)
		}
	}
}

// withdraw takes back all claims of a quota. What others claim, too, belongs to any of them until claim has looked.
func (m *memory) withdraw(h *heldQuota) {
	for _, d := range h.claims {
		others := slices.DeleteFunc(m.rivals[d], func(o *heldQuota) bool { return o == h })
		switch mine := m.owners[d] == h; {
		case len(others) > 0:
			m.rivals[d] = others
			if mine {
				m.owners[d] = others[0]
			}
		case mine:
			delete(m.rivals, d)
			delete(m.owners, d)
		}
	}
	h.claims = h.claims[:0]
}

func (m *memory) enter(h *heldQuota, d Digest) {
	owner, all := m.owners[d], m.rivals[d]
	switch {
	case len(all) > 0:
		if !slices.Contains(all, h) {
			m.rivals[d] = append(all, h)
		}
	case owner == nil:
		m.owners[d] = h
	case owner != h:
		m.rivals[d] = []*heldQuota{owner, h}
	}
}

// ownerOf is who owns a digest that all of them claim.
func (c *compilation) ownerOf(d Digest, all []*heldQuota) *heldQuota {
	meta := func(h *heldQuota) *metav1.ObjectMeta { return &c.in.Quotas[h.at].ObjectMeta }
	slices.SortFunc(all, func(a, b *heldQuota) int { return compareAges(meta(a), meta(b)) })
	if i := slices.IndexFunc(all, func(h *heldQuota) bool { return c.had(meta(h), d) }); i >= 0 {
		return all[i]
	}
	return all[0]
}

// had reports whether the quota held the digest when it was last accepted.
func (c *compilation) had(q *metav1.ObjectMeta, d Digest) bool {
	last, _ := c.lastQuota(q)
	return slices.ContainsFunc(last.Keys, func(k AcceptedKey) bool { return k.Digest == d.String() })
}

func (c *compilation) compileQuota(q *v1alpha1.ApiKeyQuota, h *heldQuota) {
	cred := &Credential{Quota: nameOf(&q.ObjectMeta)}
	problems := slices.Concat(c.checkKeys(q, h), c.checkTier(q.Namespace, q.Spec.TierRef.Name, "spec.tierRef.name"))
	if len(problems) == 0 {
		problems = c.compileHolder(q, cred)
	}
	if len(problems) == 0 {
		cred.last = newAccepted(q, c.compiled[q.Spec.TierRef.Name])
	} else {
		c.goOn(q, cred)
	}
	c.anew = append(c.anew, newVerdict(KindQuota, &q.ObjectMeta, problems))

	switch {
	case q.Spec.DesiredState == v1alpha1.DesiredStateSuspended:
		cred.standing = Suspended
	case cred.Holder == nil:
		cred.standing = Pending
	}
	if q.Spec.ExpirationTime != nil {
		cred.expires = q.Spec.ExpirationTime.UTC()
	}
	keys := c.giveKeys(q, h, cred)
	if cred.last != nil {
		cred.last.follow(q, keys)
	}
	c.held.put(h, cred, c.sumOf(cred))
	h.accepted, h.keys = len(problems) == 0, nil
}

// giveKeys gives the credential the digests that the quota owns, and lists the keys.
func (c *compilation) giveKeys(q *v1alpha1.ApiKeyQuota, h *heldQuota, cred *Credential) (keys []AcceptedKey) {
	for i, k := range c.keysOf(h) {
		if d := k.digest; k.known && c.held.owners[d] == h && !slices.Contains(cred.digests, d) {
			cred.digests = append(cred.digests, d)
			keys = append(keys, newAcceptedKey(&q.Spec.Keys[i], d))
		}
	}
	slices.SortFunc(cred.digests, func(a, b Digest) int { return bytes.Compare(a[:], b[:]) })
	return keys
}

// goOn gives a quota that is not accepted the limits that it had, if it had any.
func (c *compilation) goOn(q *v1alpha1.ApiKeyQuota, cred *Credential) {
	last, known := c.lastQuota(&q.ObjectMeta)
	tier, kept := c.lastTier(last.Tier)
	switch {
	case !known:
		return
	case !kept && len(c.checkTier(cred.Quota.Namespace, last.Tier, "")) > 0:
		return // Of its tier nothing but the name is known.
	case !kept:
		tier = acceptedTier(c.tiers[last.Tier])
		last.Tier = tier.Key()
	}
	cred.last, c.table.lastTiers[last.Tier] = &last, tier
	cred.Holder = c.lastHolder(cred.Quota, &last, &tier)
}

// compileHolder sets the credential's holder if what it may use is in order.
func (c *compilation) compileHolder(q *v1alpha1.ApiKeyQuota, cred *Credential) []Problem {
	t := c.compiled[q.Spec.TierRef.Name]
	h := c.holder(cred.Quota, &q.Spec.KeyLimits, q.Spec.Enforcement, q.Spec.User, t)
	if q.Spec.Alerts != nil {
		h.alertAt(alerts(q.Spec.Alerts))
	}
	if p := c.checkHolder(h, t, q.Namespace); p != nil {
		return []Problem{*p}
	}
	cred.Holder = h
	return nil
}

// checkHolder holds the limits of an accepted quota against the tier as it is, and against what a request can bear.
func (c *compilation) checkHolder(h *Holder, t *tier, namespace string) *Problem {
	catalogs := c.catalogsFor(namespace)
	if p := c.checkOverrides(h, t, c.tiers[t.ref.Name].Spec.KeyOverrides, catalogs); p != nil {
		return p
	}
	return c.checkSize(h, t, "spec", catalogs...)
}

// lastHolder is the holder of a quota that is not accepted: by its own limits when it was, and by its tier as it is now, so
// that nobody keeps an old plan by breaking his own object. Where the tier is gone or not permitted, it holds as it was.
// Tier, models and classes may have changed since: where the quota's own limits would now let more pass than the tier,
// the tier's hold as well.
func (c *compilation) lastHolder(name Name, last *AcceptedQuota, former *AcceptedTier) *Holder {
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

func (c *compilation) holder(name Name, limits *v1alpha1.KeyLimits, enforcement v1alpha1.Enforcement, userName string, t *tier) *Holder {
	var own *ruleset
	if !saysNothing(limits) {
		own = newRuleset(limits, enforcement, Origin{Kind: KindQuota, Namespace: name.Namespace, Name: name.Name})
	}
	return newHolder(name, own, t, c.userNamed(name.Namespace, userName))
}

// keyRead is what came of reading one key of a quota.
type keyRead struct {
	digest  Digest
	known   bool
	problem *Problem
}

// keysOf reads the keys of a quota, in their order, once in a compilation.
func (c *compilation) keysOf(h *heldQuota) []keyRead {
	if h.keys == nil {
		q := c.in.Quotas[h.at]
		h.keys = make([]keyRead, len(q.Spec.Keys))
		for i := range q.Spec.Keys {
			h.keys[i].digest, h.keys[i].known, h.keys[i].problem = c.digest(q, &q.Spec.Keys[i])
		}
	}
	return h.keys
}

// digest finds the digest of one key of a quota, or says why there is none. A Secret that cannot be read any more is a problem,
// and its key goes on as it was read last: who means to end a key takes it out of the object.
func (c *compilation) digest(q *v1alpha1.ApiKeyQuota, k *v1alpha1.APIKey) (d Digest, known bool, p *Problem) {
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
	last, _ := c.lastQuota(&q.ObjectMeta)
	if d, known = last.key(k); known {
		p.Message += " The key goes on as it was read last; to end it, take it out of spec.keys, or suspend the quota (spec.desiredState)."
	} else {
		p.Message += " Until it can be read, requests with this key are answered 401."
	}
	return d, known, p
}

func (c *compilation) checkKeys(q *v1alpha1.ApiKeyQuota, h *heldQuota) []Problem {
	var problems []Problem
	for i, k := range c.keysOf(h) {
		p := k.problem
		if owner := c.held.owners[k.digest]; p == nil && owner != h {
			other := nameOf(&c.in.Quotas[owner.at].ObjectMeta)
			p = &Problem{
				v1alpha1.ReasonKeyClaimed, fmt.Sprintf("spec.keys[name=%s]", q.Spec.Keys[i].Name),
				"Another ApiKeyQuota, which goes first, holds the same API key" + ownNamespace(other, nameOf(&q.ObjectMeta)) + "; a key can belong to one quota only.",
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
