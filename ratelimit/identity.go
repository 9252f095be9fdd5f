package ratelimit

import (
	"net/netip"
	"strings"
	"time"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
)

// identify finds for whom a request is counted, or why it must be refused; and, for either, whose key it brings, if any that
// the gateway admits. API keys are hashed here and go no further.
func (e *epoch) identify(g *policy.Gateway, r *descriptor.Reserve, now time.Time) (*policy.Holder, *policy.Credential, *denial) {
	digest, n := presented(g.Sources, r.Credentials)
	switch n {
	case 0:
		h, d := e.admitStranger(g.MissingKey, r.Client, &missingKey)
		return h, nil, d
	case 1:
	default:
		return nil, nil, &conflictingKeys
	}
	c, known := e.table.Lookup(digest)
	if !known {
		h, d := e.admitStranger(g.UnknownKey, r.Client, &unknownKey)
		return h, nil, d
	}
	if !g.Admits(c.Quota.Namespace) {
		return nil, nil, &foreignKey
	}
	switch c.Standing(now) {
	case policy.Suspended:
		return nil, c, &suspendedKey
	case policy.Expired:
		return nil, c, &expiredKey
	case policy.Pending:
		return nil, c, &pendingKey
	default:
		return c.Holder, c, nil
	}
}

func (e *epoch) admitStranger(tier *policy.Assigned, client string, otherwise *denial) (*policy.Holder, *denial) {
	if tier == nil {
		return nil, otherwise
	}
	address, err := netip.ParseAddr(client)
	if err != nil {
		return nil, otherwise
	}
	return e.stranger(tier, address), nil
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
