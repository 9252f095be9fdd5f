package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
)

// hash must be called before the Table is shared, and after everything else is in it. It covers what dump shows, but the
// rules that many quotas have in common are written once.
func (t *Table) hash() string {
	sum, sums := sha256.New(), map[*ruleset][]byte{}
	var line []byte
	for _, c := range t.sortedQuotas() {
		line = c.appendTo(line[:0], sums)
		_, _ = sum.Write(line) // A hash never fails.
	}
	_, _ = sum.Write(encode(t.models.dump()))
	_, _ = sum.Write(encode(t.dumpGateways()))
	return hex.EncodeToString(sum.Sum(nil)[:8])
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
	b = binary.AppendUvarint(b, uint64(len(h.sources)))
	for _, rs := range h.sources {
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
