package ratelimit

import (
	"net/netip"
	"strings"
	"time"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A caller is for whom a request is counted.
type caller struct {
	holder     *policy.Holder     // nil: the request is refused
	credential *policy.Credential // of a key that the gateway knows, also where the request is refused; nil: none
	key        policy.Digest      // where there is a credential
	plan       *plan              // of the kind of the request, if it was made before
}

// terms are those of a caller who is not refused.
func (c *caller) terms() *policy.Terms { return c.holder.Terms }

// identify finds for whom a request is counted, or why it must be refused. API keys are hashed here and go no further.
func (e *epoch) identify(k *kind, r *descriptor.Reserve, now time.Time) (caller, *denial) {
	g := k.gateway
	digest, n := presented(g.Sources, r.Credentials)
	switch n {
	case 0:
		return e.admitStranger(g.MissingKey, r.Client, &missingKey)
	case 1:
	default:
		return caller{}, &conflictingKeys
	}
	// Who has a plan was admitted before, by the same table.
	if p, ok := e.plans.Load(planKey{kind: k, key: digest}); ok && (p.expires.IsZero() || now.Before(p.expires)) {
		return caller{p.holder, p.credential, digest, p}, nil
	}
	c, known := e.table.Lookup(digest)
	if !known {
		return e.admitStranger(g.UnknownKey, r.Client, &unknownKey)
	}
	if !g.Admits(c.Quota.Namespace) {
		return caller{}, &foreignKey
	}
	switch c.Standing(now) {
	case policy.Suspended:
		return caller{credential: c}, &suspendedKey
	case policy.Expired:
		return caller{credential: c}, &expiredKey
	case policy.Pending:
		return caller{credential: c}, &pendingKey
	default:
		return caller{holder: c.Holder, credential: c, key: digest}, nil
	}
}

func (e *epoch) admitStranger(tier *policy.Assigned, client string, otherwise *denial) (caller, *denial) {
	if tier == nil {
		return caller{}, otherwise
	}
	address, err := netip.ParseAddr(client)
	if err != nil {
		return caller{}, otherwise
	}
	return caller{holder: e.stranger(tier, address)}, nil
}

// presented finds the digest of the key that a request brings, and how many different keys it brings. A header that is
// repeated arrives joined by commas, so a comma parts two keys; an empty value is none.
func presented(sources []policy.KeySource, credentials []descriptor.Credential) (digest policy.Digest, n int) {
	for _, s := range sources {
		for _, c := range credentials {
			if c.Header != s.Header || c.Query != s.Query {
				continue
			}
			for part := range strings.SplitSeq(c.Reveal(), ",") {
				key, ok := s.KeyIn(part)
				if !ok {
					continue
				}
				d := policy.HashKey([]byte(key))
				if n == 0 || d != digest {
					digest, n = d, n+1
				}
			}
		}
	}
	return digest, n
}
