package feed

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/feed/feedv1"
)

// encode writes a part. Equal parts are written equally.
func encode(p policy.Part) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(message(p))
	if err != nil {
		panic(err) // All texts in a Table come from JSON, so they are UTF-8.
	}
	return b
}

func message(p policy.Part) *feedv1.Policy {
	switch p := p.(type) {
	case *policy.TierPart:
		return &feedv1.Policy{Part: &feedv1.Policy_Tier{Tier: &feedv1.Tier{
			Priority: int32(p.Priority), Pool: p.Pool, MaxWait: span(p.MaxWait), Rules: encodeRuleset(&p.Rules), Alerts: encodePercents(p.Alerts), //nolint:gosec // 1 to 4.
		}}}
	case *policy.UserPart:
		return &feedv1.Policy{Part: &feedv1.Policy_User{User: &feedv1.User{User: p.User, Rules: encodeRuleset(&p.Rules)}}}
	case *policy.ModelPart:
		return &feedv1.Policy{Part: &feedv1.Policy_Model{Model: &feedv1.Model{
			Models: p.Models, Class: p.Class, Resource: p.Resource, Parent: p.Parent,
			Shared: encodeRules(p.Shared), PerKey: encodeRules(p.PerKey), Shadow: p.Shadow,
			DefaultOutputTokens: p.DefaultOutputTokens, CachedInputPercent: p.CachedInputPercent,
		}}}
	case *policy.GatewayPart:
		return &feedv1.Policy{Part: &feedv1.Policy_Gateway{Gateway: encodeGateway(p)}}
	case *policy.QuotaPart:
		return &feedv1.Policy{Part: &feedv1.Policy_Quota{Quota: encodeQuota(p)}}
	default:
		return nil
	}
}

func encodeQuota(p *policy.QuotaPart) *feedv1.Quota {
	q := &feedv1.Quota{Suspended: p.Suspended}
	for i := range p.Digests {
		q.Digests = append(q.Digests, p.Digests[i][:])
	}
	if !p.Expires.IsZero() {
		q.Expires = timestamppb.New(p.Expires)
	}
	if h := p.Holder; h != nil {
		q.Holder = &feedv1.Holder{Tier: encodeRef(&h.Tier), User: h.User, Own: encodeRuleset(h.Own), Both: h.Both, Alerts: encodePercents(h.Alerts)}
	}
	return q
}

func encodePercents(list []int) []int32 {
	var out []int32
	for _, p := range list {
		out = append(out, int32(p)) //nolint:gosec // 1 to 100.
	}
	return out
}

func encodeRef(r *policy.TierRef) *feedv1.TierRef {
	if r == nil {
		return nil
	}
	return &feedv1.TierRef{Name: r.Name, Form: r.Form}
}

func encodeRuleset(rs *policy.Rules) *feedv1.Rules {
	if rs == nil {
		return nil
	}
	return &feedv1.Rules{
		Shadow: rs.Shadow, All: encodeRules(rs.All),
		Resources: encodeEntries(rs.Resources), Classes: encodeEntries(rs.Classes), Models: encodeEntries(rs.Models),
	}
}

func encodeEntries(entries []policy.Entry) []*feedv1.Entry {
	var out []*feedv1.Entry
	for _, e := range entries {
		out = append(out, &feedv1.Entry{Name: e.Name, Together: e.Together, Rules: encodeRules(e.Rules)})
	}
	return out
}

func encodeRules(rules []policy.Rule) []*feedv1.Rule {
	var out []*feedv1.Rule
	for _, r := range rules {
		out = append(out, &feedv1.Rule{
			Metric: number[feedv1.Metric](r.Pair.Metric, metrics), Per: number[feedv1.Per](r.Pair.Per, pers),
			Algorithm: number[feedv1.Algorithm](r.Algorithm, algorithms), Unlimited: r.Unlimited, Max: r.Max,
			Status: int32(r.Status), Field: r.Field, Capacity: encodeCapacity(r.Capacity), //nolint:gosec // HTTP statuses have three digits.
		})
	}
	return out
}

func encodeCapacity(c *policy.CapacityPart) *feedv1.Capacity {
	if c == nil {
		return nil
	}
	out := &feedv1.Capacity{}
	if q := c.Queue; q != nil {
		out.Queue = &feedv1.Queue{MaxLength: int64(q.MaxLength), MaxBodyBytes: q.MaxBodyBytes, MaxWait: span(q.MaxWait), Age: span(q.Age)}
	}
	for _, tier := range slices.Sorted(maps.Keys(c.Shares)) {
		out.Shares = append(out.Shares, &feedv1.Share{Tier: tier, Size: c.Shares[tier]})
	}
	return out
}

func encodeGateway(p *policy.GatewayPart) *feedv1.Gateway {
	g := &p.Gateway
	out := &feedv1.Gateway{
		MissingKey: encodeRef(p.MissingKey), UnknownKey: encodeRef(p.UnknownKey), DenyUnknownModels: g.DenyUnknownModels,
		Dialects: encodeDialects(g), MaxWait: span(g.MaxWait), Shadow: g.Shadow, Abuse: encodeAbuse(g.Abuse),
		AllNamespaces: p.AllNamespaces, Namespaces: p.Namespaces, Selector: p.Selector,
		StoreOut: number[feedv1.StoreOut](g.StoreOut, storeOuts),
	}
	for _, s := range g.Sources {
		out.Sources = append(out.Sources, &feedv1.KeySource{Header: s.Header, Prefix: s.Prefix, Query: s.Query})
	}
	return out
}

func encodeDialects(g *policy.Gateway) *feedv1.Dialects {
	d := &feedv1.Dialects{}
	window := func(p policy.Per) *feedv1.Window { return &feedv1.Window{Window: number[feedv1.Per](p, pers)} }
	if m := g.PerMetric; m != nil {
		d.PerMetric = &feedv1.PerMetric{
			RequestsReset: number[feedv1.Reset](m.RequestsReset, resets), TokensReset: number[feedv1.Reset](m.TokensReset, resets),
			Window: number[feedv1.Per](m.Window, pers),
		}
	}
	if r := g.PerResource; r != nil {
		d.PerResource = window(r.Window)
	}
	if i := g.IETF; i != nil {
		d.Ietf = window(i.Window)
	}
	if a := g.Anthropic; a != nil {
		d.Anthropic = window(a.Window)
	}
	return d
}

func encodeAbuse(a *policy.AbuseProtection) *feedv1.Abuse {
	if a == nil {
		return nil
	}
	out := &feedv1.Abuse{MaxFailures: int64(a.MaxFailures), Window: span(a.Window), Block: span(a.Block)}
	for _, r := range a.Counted {
		out.Counted = append(out.Counted, &feedv1.StatusRange{Min: int32(r.Min), Max: int32(r.Max)}) //nolint:gosec // HTTP statuses have three digits.
	}
	for _, p := range a.Exempt {
		out.Exempt = append(out.Exempt, p.String())
	}
	return out
}

// span is nil for 0.
func span(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
