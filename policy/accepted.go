package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// Accepted holds what Compile needs to let an object that is no longer accepted go on as before. It is kept across
// restarts, so its JSON form is stable.
type Accepted struct {
	Quotas   map[string]AcceptedQuota   `json:"quotas,omitempty"`   // by Name.String
	Gateways map[string]AcceptedGateway `json:"gateways,omitempty"` // by Name.String
	Tiers    map[string]AcceptedTier    `json:"tiers,omitempty"`    // by AcceptedQuota.Tier
}

// AcceptedQuota is the limits of an ApiKeyQuota when it was last accepted, and the tier it was on. Its keys, its state and
// its expiration are those that it had last, accepted or not, so that a key can always be revoked. They are for Restore:
// Compile takes them from the object, and looks here only for who had a key before.
type AcceptedQuota struct {
	UID        types.UID          `json:"uid,omitempty"`        // of the object; empty where objects have none
	Generation int64              `json:"generation,omitempty"` // of the object; 0 where objects have none
	Limits     v1alpha1.KeyLimits `json:"limits,omitzero"`
	User       string             `json:"user,omitempty"`
	Tier       string             `json:"tier"` // in Accepted.Tiers; the name of the tier where nothing else is known of it

	Enforcement v1alpha1.Enforcement `json:"enforcement,omitempty"`

	Keys           []AcceptedKey         `json:"keys"`
	DesiredState   v1alpha1.DesiredState `json:"desiredState,omitempty"`
	ExpirationTime *metav1.Time          `json:"expirationTime,omitempty"`
}

// AcceptedKey is a key of a quota as it was when it could be read last. A key in a Secret that cannot be read goes on by it.
type AcceptedKey struct {
	Name   string                 `json:"name"`
	Digest string                 `json:"digest"`                 // as Digest.String writes it
	Secret *v1alpha1.SecretKeyRef `json:"secretKeyRef,omitempty"` // nil: the digest stands in the object
}

// AcceptedTier is a tier as it was when a quota on it was accepted. Many quotas share one.
type AcceptedTier struct {
	Name string                     `json:"name"`
	Spec v1alpha1.RateLimitTierSpec `json:"spec"`
}

// AcceptedGateway is a QuotaGateway when it was last accepted, and the tiers that it assigns.
type AcceptedGateway struct {
	UID        types.UID `json:"uid,omitempty"`        // of the object; empty where objects have none
	Generation int64     `json:"generation,omitempty"` // of the object; 0 where objects have none

	Spec  v1alpha1.QuotaGatewaySpec             `json:"spec"`
	Tiers map[string]v1alpha1.RateLimitTierSpec `json:"tiers,omitempty"` // by name
}

// acceptedTier is a tier as it is now, without who else may use it: it is kept where others can read it.
func acceptedTier(t *v1alpha1.RateLimitTier) AcceptedTier {
	spec := t.Spec
	spec.AllowedNamespaces = nil
	return AcceptedTier{t.Name, spec}
}

// Key names the tier as it is in Accepted.Tiers.
func (t *AcceptedTier) Key() string {
	sum := sha256.Sum256(encode(t.Spec))
	return t.Name + "@" + hex.EncodeToString(sum[:8])
}

// Restore adds to an Input the quotas and gateways that it lacks and that lost names, as they were when they were last
// accepted. It is for a start at which the place where they are written cannot be read.
func (a *Accepted) Restore(in *Input, lost func(Object) bool) {
	there := map[Object]bool{}
	for _, q := range in.Quotas {
		there[Object{KindQuota, nameOf(&q.ObjectMeta)}] = true
	}
	for _, g := range in.Gateways {
		there[Object{KindGateway, nameOf(&g.ObjectMeta)}] = true
	}
	for name, q := range a.Quotas {
		if o := (Object{KindQuota, parseName(name)}); !there[o] && lost(o) {
			in.Quotas = append(in.Quotas, q.object(o.Name, a.Tiers[q.Tier].Name))
		}
	}
	for name, g := range a.Gateways {
		if o := (Object{KindGateway, parseName(name)}); !there[o] && lost(o) {
			in.Gateways = append(in.Gateways, &v1alpha1.QuotaGateway{ObjectMeta: o.meta(), Spec: g.Spec})
		}
	}
}

func (q *AcceptedQuota) object(name Name, tier string) *v1alpha1.ApiKeyQuota {
	out := &v1alpha1.ApiKeyQuota{ObjectMeta: Object{KindQuota, name}.meta(), Spec: v1alpha1.ApiKeyQuotaSpec{
		KeyLimits: q.Limits, User: q.User, TierRef: v1alpha1.Ref{Name: tier},
		DesiredState: q.DesiredState, ExpirationTime: q.ExpirationTime, Enforcement: q.Enforcement,
	}}
	for _, k := range q.Keys {
		out.Spec.Keys = append(out.Spec.Keys, v1alpha1.APIKey{Name: k.Name, Digest: k.Digest})
	}
	return out
}

func (o Object) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name.Name}
}

// parseName reads what Name.String writes for a kind that has namespaces.
func parseName(s string) Name {
	namespace, name, _ := strings.Cut(s, "/")
	return Name{namespace, name}
}

// Accepted is what a later compilation needs as its LastAccepted. It lists every quota: who asks about one calls AcceptedQuota.
func (t *Table) Accepted() Accepted {
	a := Accepted{Quotas: make(map[string]AcceptedQuota, t.quotas.len()), Gateways: map[string]AcceptedGateway{}, Tiers: map[string]AcceptedTier{}}
	for name, c := range t.quotas.all() {
		if c.last != nil {
			a.Quotas[name.String()], a.Tiers[c.last.Tier] = *c.last, t.lastTiers[c.last.Tier]
		}
	}
	maps.Copy(a.Gateways, t.lastGateways)
	return a
}

// AcceptedQuota is what Accepted has of one quota, to be read only; nil if that is nothing.
func (t *Table) AcceptedQuota(n Name) *AcceptedQuota {
	if c, known := t.quotas.get(n); known {
		return c.last
	}
	return nil
}

// AcceptedTier is the tier that an AcceptedQuota of this Table was on, by its Tier.
func (t *Table) AcceptedTier(key string) (on AcceptedTier, known bool) {
	on, known = t.lastTiers[key]
	return on, known
}

// AcceptedGateway is what Accepted has of one gateway.
func (t *Table) AcceptedGateway(n Name) (g AcceptedGateway, known bool) {
	g, known = t.lastGateways[n.String()]
	return g, known
}

// What LastAccepted says goes before what the Compiler remembers of its last Table. Neither counts for an object that has only the
// name of the one that was accepted.

func (c *compilation) lastQuota(o *metav1.ObjectMeta) (q AcceptedQuota, known bool) {
	q, known = c.lastOfName(nameOf(o))
	if !known || !sameObject(q.UID, o) {
		return AcceptedQuota{}, false
	}
	return q, true
}

func sameObject(uid types.UID, o *metav1.ObjectMeta) bool {
	return uid == "" || o.UID == "" || uid == o.UID
}

func (c *compilation) lastOfName(n Name) (q AcceptedQuota, known bool) {
	if len(c.in.LastAccepted.Quotas) > 0 {
		q, known = c.in.LastAccepted.Quotas[n.String()]
	}
	if !known && c.before != nil {
		if last := c.before.AcceptedQuota(n); last != nil {
			return *last, true
		}
	}
	return q, known
}

func (c *compilation) lastTier(key string) (t AcceptedTier, known bool) {
	t, known = c.in.LastAccepted.Tiers[key]
	if !known && c.before != nil {
		t, known = c.before.AcceptedTier(key)
	}
	return t, known
}

func (c *compilation) lastGateway(o *metav1.ObjectMeta) (g AcceptedGateway, known bool) {
	n := nameOf(o)
	g, known = c.in.LastAccepted.Gateways[n.String()]
	if !known && c.before != nil {
		g, known = c.before.AcceptedGateway(n)
	}
	return g, known && sameObject(g.UID, o)
}

// newAccepted notes what an accepted quota needs to go on should it be rejected one day.
func newAccepted(q *v1alpha1.ApiKeyQuota, t *tier) *AcceptedQuota {
	return &AcceptedQuota{
		UID: q.UID, Generation: q.Generation, Limits: q.Spec.KeyLimits, User: q.Spec.User, Tier: t.key, Enforcement: q.Spec.Enforcement,
	}
}

// follow notes what a quota says of its keys, accepted now or not.
func (q *AcceptedQuota) follow(object *v1alpha1.ApiKeyQuota, keys []AcceptedKey) {
	q.Keys, q.DesiredState, q.ExpirationTime = keys, object.Spec.DesiredState, object.Spec.ExpirationTime
}

// newAcceptedKey shares the text of a digest that the object writes as we do.
func newAcceptedKey(k *v1alpha1.APIKey, d Digest) AcceptedKey {
	text := d.String()
	if text == k.Digest {
		text = k.Digest
	}
	return AcceptedKey{k.Name, text, k.SecretKeyRef}
}

// key is what was last read of a key in a Secret, if the object still names the same value.
func (q *AcceptedQuota) key(k *v1alpha1.APIKey) (d Digest, known bool) {
	for _, last := range q.Keys {
		if last.Name == k.Name && last.Secret != nil && *last.Secret == *k.SecretKeyRef {
			return ParseDigest(last.Digest)
		}
	}
	return d, false
}
