package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math/bits"
	"slices"
)

// A sum stands for a set of credentials, or of gateways: the sums of each, added up, so that it can follow a change of one. Equal
// sets have equal sums, whatever was in them before.
type sum struct{ high, low uint64 }

func (s *sum) add(o sum) {
	var carry uint64
	s.low, carry = bits.Add64(s.low, o.low, 0)
	s.high, _ = bits.Add64(s.high, o.high, carry)
}

func (s *sum) subtract(o sum) {
	var borrow uint64
	s.low, borrow = bits.Sub64(s.low, o.low, 0)
	s.high, _ = bits.Sub64(s.high, o.high, borrow)
}

func (c *compilation) sumOf(cred *Credential) sum {
	c.line = cred.appendTo(c.line[:0], c.sums)
	return newSum(c.line)
}

// sumOfGateway covers what dump shows of it, and what it admits in any case.
func (c *compilation) sumOfGateway(g *Gateway) sum {
	d := c.table.dumpGateway(g)
	d.Admits = slices.Sorted(maps.Keys(g.admits.namespaces))
	return newSum(appendBool(encode(d), g.admits.all))
}

func (m *memory) sumOfGateways() (all sum) {
	for _, h := range m.gateways {
		all.add(h.sum)
	}
	return all
}

func newSum(content []byte) sum {
	hash := sha256.Sum256(content)
	return sum{binary.BigEndian.Uint64(hash[:]), binary.BigEndian.Uint64(hash[8:])}
}

// hash must be called before the Table is shared, and after everything else is in it. It covers what dump shows; of quotas and
// gateways, it is given the sums.
func (t *Table) hash(sums ...sum) string {
	hash := sha256.New()
	for _, s := range sums {
		_, _ = hash.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.high), s.low)) // A hash never fails.
	}
	_, _ = hash.Write(encode(t.models.dump()))
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

// appendTo writes the credential in a form that tells where each part ends. It looks up sums of rulesets, and adds them.
func (c *Credential) appendTo(b []byte, sums map[*ruleset][]byte) []byte {
	b = appendText(b, c.Quota.Namespace, c.Quota.Name)
	b = append(b, byte(c.standing))
	b = binary.AppendVarint(b, c.expires.Unix())
	b = binary.AppendUvarint(b, uint64(len(c.digests)))
	for _, d := range c.digests {
		b = append(b, d[:]...)
	}
	if c.Holder == nil {
		return append(b, 0)
	}
	return c.Holder.appendTo(append(b, 1), sums)
}

func (h *Holder) appendTo(b []byte, sums map[*ruleset][]byte) []byte {
	b = appendText(b, h.Tier, h.Pool)
	b = binary.AppendVarint(b, int64(h.Priority))
	b = binary.AppendVarint(b, int64(h.MaxWait))
	b = binary.AppendUvarint(b, uint64(len(h.Alerts)))
	for _, percent := range h.Alerts {
		b = binary.AppendVarint(b, int64(percent))
	}
	b = appendBool(b, h.both)
	sources := h.sources()
	b = binary.AppendUvarint(b, uint64(len(sources)))
	for _, rs := range sources {
		b = append(b, rs.sum(sums)...)
	}
	b = appendBool(b, h.user != nil)
	if h.user != nil {
		b = append(appendText(b, h.user.subject), h.user.rules.sum(sums)...)
	}
	return b
}

func (rs *ruleset) sum(sums map[*ruleset][]byte) []byte {
	if sums[rs] == nil {
		sum := sha256.Sum256(encode(rs.dump()))
		sums[rs] = sum[:]
	}
	return sums[rs]
}

func appendText(b []byte, list ...string) []byte {
	for _, s := range list {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func encode(v any) []byte {
	content, err := json.Marshal(v)
	if err != nil {
		panic(err) // A dump holds nothing that JSON cannot write.
	}
	return content
}
