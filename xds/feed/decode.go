package feed

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"
	"unique"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/feed/feedv1"
)

// decode reads what encode writes of a part. It refuses what it does not know: it may be a limit. Of a quota that it
// refuses it can still return a part, of which the keys are known and whose tier is nowhere.
func decode(name policy.PartName, content []byte) (policy.Part, error) {
	var m feedv1.Policy
	if err := proto.Unmarshal(content, &m); err != nil {
		return nil, errors.New("it cannot be read: its bytes are no Policy")
	}
	part, err := decodePart(name, &m)
	if unknown := unknownField(m.ProtoReflect()); err == nil {
		err = unknown
	}
	if err == nil {
		return part, nil
	}
	if q, ok := part.(*policy.QuotaPart); ok {
		q.Holder = &policy.HolderPart{}
		return q, err
	}
	return nil, err
}

// decodePart returns, with an error, no part or that of a quota whose keys could be read.
func decodePart(name policy.PartName, m *feedv1.Policy) (policy.Part, error) {
	switch part := m.GetPart().(type) {
	case *feedv1.Policy_Tier:
		if name.Kind == policy.KindTier {
			return decodeTier(name, part.Tier)
		}
	case *feedv1.Policy_User:
		if name.Kind == policy.KindUser {
			rules, err := decodeRuleset(part.User.GetRules())
			return &policy.UserPart{Name: name.Name, User: part.User.GetUser(), Rules: rules}, err
		}
	case *feedv1.Policy_Model:
		if name.Kind == policy.KindModel {
			return decodeModel(name, part.Model)
		}
	case *feedv1.Policy_Gateway:
		if name.Kind == policy.KindGateway {
			return decodeGateway(name.Name, part.Gateway)
		}
	case *feedv1.Policy_Quota:
		if name.Kind == policy.KindQuota {
			return decodeQuota(name.Name, part.Quota)
		}
	}
	return nil, fmt.Errorf("its content is not that of a %s, or of a kind that is not known here", name.Kind)
}

// unknownField finds a field that only a newer version knows.
func unknownField(m protoreflect.Message) (err error) {
	if b := m.GetUnknown(); len(b) > 0 {
		n, _, _ := protowire.ConsumeTag(b)
		return fmt.Errorf("field %d of %s is not known here", n, m.Descriptor().Name())
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				if err = unknownField(v.List().Get(i).Message()); err != nil {
					return false
				}
			}
		default:
			err = unknownField(v.Message())
		}
		return err == nil
	})
	return err
}

func decodeTier(name policy.PartName, m *feedv1.Tier) (policy.Part, error) {
	if m.GetPriority() < 1 || m.GetPriority() > policy.HighestPriority {
		return nil, fmt.Errorf("priority %d is not known here", m.GetPriority())
	}
	wait, err := duration("max_wait", m.GetMaxWait())
	if err != nil {
		return nil, err
	}
	alerts, err := decodePercents("alerts", m.GetAlerts())
	if err != nil {
		return nil, err
	}
	rules, err := decodeRuleset(m.GetRules())
	return &policy.TierPart{
		TierRef:  policy.TierRef{Name: name.Name.Name, Form: name.Form},
		Priority: int(m.GetPriority()), Pool: m.GetPool(), MaxWait: wait, Alerts: alerts, Rules: rules,
	}, err
}

func decodeModel(name policy.PartName, m *feedv1.Model) (policy.Part, error) {
	p := &policy.ModelPart{
		Name: name.Name.Name, Selector: name.Form, Models: m.GetModels(), Class: m.GetClass(), Resource: m.GetResource(), Parent: m.GetParent(),
		Shadow: m.GetShadow(), DefaultOutputTokens: m.GetDefaultOutputTokens(), CachedInputPercent: m.GetCachedInputPercent(),
	}
	if slices.Contains(p.Models, "") {
		return nil, errors.New("models: a name is empty")
	}
	if p.DefaultOutputTokens < 0 || p.CachedInputPercent < 0 {
		return nil, errors.New("default_output_tokens or cached_input_percent is negative")
	}
	var err error
	if p.Shared, err = decodeRules("shared", m.GetShared()); err != nil {
		return nil, err
	}
	p.PerKey, err = decodeRules("per_key", m.GetPerKey())
	return p, err
}

// expired is when a quota ends whose end cannot be read: or its keys would be honoured by its former limits for ever.
var expired = time.Unix(0, 0).UTC()

func decodeQuota(name policy.Name, m *feedv1.Quota) (policy.Part, error) {
	p := &policy.QuotaPart{Name: name, Suspended: m.GetSuspended()}
	var errs [3]error
	p.Digests, errs[0] = decodeDigests(m.GetDigests())
	p.Expires, errs[1] = decodeExpires(m.GetExpires())
	p.Holder, errs[2] = decodeHolder(m.GetHolder())
	return p, cmp.Or(errs[:]...)
}

// decodeDigests returns, with an error, those that could be read.
func decodeDigests(list [][]byte) (digests []policy.Digest, err error) {
	for _, d := range list {
		if len(d) != len(policy.Digest{}) {
			err = errors.New("digests: one is not a SHA-256")
			continue
		}
		digests = append(digests, policy.Digest(d))
	}
	return digests, err
}

func decodeExpires(m *timestamppb.Timestamp) (time.Time, error) {
	switch {
	case m == nil:
		return time.Time{}, nil
	case m.CheckValid() != nil:
		return expired, errors.New("expires: it is no time")
	}
	return m.AsTime(), nil
}

func decodeHolder(m *feedv1.Holder) (*policy.HolderPart, error) {
	if m == nil {
		return nil, nil //nolint:nilnil // There is none, and that is right.
	}
	h := &policy.HolderPart{Tier: *decodeRef(m.GetTier()), User: m.GetUser(), Both: m.GetBoth()}
	var err error
	if h.Alerts, err = decodePercents("alerts", m.GetAlerts()); err != nil || m.GetOwn() == nil {
		return h, err
	}
	own, err := decodeRuleset(m.GetOwn())
	h.Own = &own
	return h, err
}

func decodePercents(field string, list []int32) ([]int, error) {
	var out []int
	for _, p := range list {
		if p < 1 || p > 100 {
			return nil, fmt.Errorf("%s: %d is no percentage", field, p)
		}
		out = append(out, int(p))
	}
	return out, nil
}

func decodeRef(m *feedv1.TierRef) *policy.TierRef {
	return &policy.TierRef{Name: m.GetName(), Form: m.GetForm()}
}

func decodeRuleset(m *feedv1.Rules) (rs policy.Rules, err error) {
	rs.Shadow = m.GetShadow()
	if rs.All, err = decodeRules("all", m.GetAll()); err != nil {
		return rs, err
	}
	if rs.Resources, err = decodeEntries("resources", m.GetResources()); err != nil {
		return rs, err
	}
	if rs.Classes, err = decodeEntries("classes", m.GetClasses()); err != nil {
		return rs, err
	}
	rs.Models, err = decodeEntries("models", m.GetModels())
	return rs, err
}

func decodeEntries(field string, entries []*feedv1.Entry) ([]policy.Entry, error) {
	var out []policy.Entry
	for _, e := range entries {
		if e.GetName() == "" {
			return nil, fmt.Errorf("%s: a name is empty", field)
		}
		rules, err := decodeRules(field+"["+e.GetName()+"]", e.GetRules())
		if err != nil {
			return nil, err
		}
		out = append(out, policy.Entry{Name: e.GetName(), Together: e.GetTogether(), Rules: rules})
	}
	return out, nil
}

func decodeRules(field string, rules []*feedv1.Rule) ([]policy.Rule, error) {
	out := make([]policy.Rule, 0, len(rules))
	for _, m := range rules {
		r, err := decodeRule(m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		out = append(out, r)
	}
	return out, nil
}

var statuses = []int{http.StatusTooManyRequests, http.StatusPaymentRequired, http.StatusForbidden, http.StatusServiceUnavailable}

func decodeRule(m *feedv1.Rule) (r policy.Rule, err error) {
	// Quotas say the same in the same places, by the thousands.
	r = policy.Rule{Unlimited: m.GetUnlimited(), Max: m.GetMax(), Status: int(m.GetStatus()), Field: unique.Make(m.GetField()).Value()}
	if r.Pair.Metric, err = meaning(m.GetMetric(), metrics); err != nil {
		return r, err
	}
	if r.Pair.Per, err = decodePer(m.GetPer()); err != nil {
		return r, err
	}
	if r.Algorithm, err = meaning(m.GetAlgorithm(), algorithms); err != nil {
		return r, err
	}
	switch {
	case (r.Pair.Metric == policy.ConcurrentRequests) != (r.Pair.Per == policy.NoPer):
		return r, fmt.Errorf("%s and %s do not go together", m.GetMetric(), m.GetPer())
	case r.Max < 0:
		return r, fmt.Errorf("max %d is negative", r.Max)
	case !slices.Contains(statuses, r.Status):
		return r, fmt.Errorf("status %d is not known here", r.Status)
	}
	r.Capacity, err = decodeCapacity(m.GetCapacity())
	return r, err
}

// decodePer reads zero as none.
func decodePer(m feedv1.Per) (policy.Per, error) {
	if m == feedv1.Per_PER_UNSPECIFIED {
		return policy.NoPer, nil
	}
	return meaning(m, pers)
}

func decodeCapacity(m *feedv1.Capacity) (*policy.CapacityPart, error) {
	if m == nil {
		return nil, nil //nolint:nilnil // There is none, and that is right.
	}
	c := &policy.CapacityPart{}
	if q := m.GetQueue(); q != nil {
		wait, err := duration("max_wait", q.GetMaxWait())
		if err != nil {
			return nil, err
		}
		age, err := positive("age", q.GetAge())
		if err != nil {
			return nil, err
		}
		if q.GetMaxLength() < 0 || q.GetMaxBodyBytes() < 0 {
			return nil, errors.New("max_length or max_body_bytes of the queue is negative")
		}
		c.Queue = &policy.Queue{MaxLength: int(q.GetMaxLength()), MaxBodyBytes: q.GetMaxBodyBytes(), MaxWait: wait, Age: age}
	}
	for _, s := range m.GetShares() {
		if s.GetSize() < 0 {
			return nil, fmt.Errorf("the share of %s is negative", s.GetTier())
		}
		if c.Shares == nil {
			c.Shares = map[string]int64{}
		}
		c.Shares[s.GetTier()] = s.GetSize()
	}
	return c, nil
}

func decodeGateway(name policy.Name, m *feedv1.Gateway) (policy.Part, error) {
	p := &policy.GatewayPart{
		Gateway:       policy.Gateway{Name: name, DenyUnknownModels: m.GetDenyUnknownModels(), Shadow: m.GetShadow()},
		AllNamespaces: m.GetAllNamespaces(), Namespaces: m.GetNamespaces(), Selector: m.GetSelector(),
	}
	if ref := m.GetMissingKey(); ref != nil {
		p.MissingKey = decodeRef(ref)
	}
	if ref := m.GetUnknownKey(); ref != nil {
		p.UnknownKey = decodeRef(ref)
	}
	for _, s := range m.GetSources() {
		p.Gateway.Sources = append(p.Gateway.Sources, policy.KeySource{Header: s.GetHeader(), Prefix: s.GetPrefix(), Query: s.GetQuery()})
	}
	var err error
	if out := m.GetStoreOut(); out != feedv1.StoreOut_STORE_OUT_UNSPECIFIED {
		if p.Gateway.StoreOut, err = meaning(out, storeOuts); err != nil {
			return nil, err
		}
	}
	if p.Gateway.MaxWait, err = duration("max_wait", m.GetMaxWait()); err != nil {
		return nil, err
	}
	if err := decodeDialects(&p.Gateway, m.GetDialects()); err != nil {
		return nil, err
	}
	p.Gateway.Abuse, err = decodeAbuse(m.GetAbuse())
	return p, err
}

func decodeDialects(g *policy.Gateway, m *feedv1.Dialects) (err error) {
	if d := m.GetPerMetric(); d != nil {
		g.PerMetric = &policy.PerMetric{}
		if g.PerMetric.RequestsReset, err = meaning(d.GetRequestsReset(), resets); err != nil {
			return err
		}
		if g.PerMetric.TokensReset, err = meaning(d.GetTokensReset(), resets); err != nil {
			return err
		}
		if g.PerMetric.Window, err = decodePer(d.GetWindow()); err != nil {
			return err
		}
	}
	if d := m.GetPerResource(); d != nil {
		g.PerResource = &policy.PerResource{}
		if g.PerResource.Window, err = decodePer(d.GetWindow()); err != nil {
			return err
		}
	}
	if d := m.GetIetf(); d != nil {
		g.IETF = &policy.IETFHeaders{}
		if g.IETF.Window, err = decodePer(d.GetWindow()); err != nil {
			return err
		}
	}
	if d := m.GetAnthropic(); d != nil {
		g.Anthropic = &policy.AnthropicHeaders{}
		g.Anthropic.Window, err = decodePer(d.GetWindow())
	}
	return err
}

func decodeAbuse(m *feedv1.Abuse) (*policy.AbuseProtection, error) {
	if m == nil {
		return nil, nil //nolint:nilnil // There is none, and that is right.
	}
	window, err := positive("window", m.GetWindow())
	if err != nil {
		return nil, err
	}
	block, err := positive("block", m.GetBlock())
	if err != nil {
		return nil, err
	}
	a := &policy.AbuseProtection{MaxFailures: int(m.GetMaxFailures()), Window: window, Block: block}
	for _, r := range m.GetCounted() {
		a.Counted = append(a.Counted, policy.StatusRange{Min: int(r.GetMin()), Max: int(r.GetMax())})
	}
	for _, text := range m.GetExempt() {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("exempt: %q is no CIDR", text)
		}
		a.Exempt = append(a.Exempt, prefix)
	}
	return a, nil
}

// duration reads what span writes.
func duration(field string, m *durationpb.Duration) (time.Duration, error) {
	if m == nil {
		return 0, nil
	}
	if m.CheckValid() != nil || m.AsDuration() < 0 {
		return 0, fmt.Errorf("%s: it is negative, or no duration", field)
	}
	return m.AsDuration(), nil
}

// positive refuses 0 as well: something is divided by it.
func positive(field string, m *durationpb.Duration) (time.Duration, error) {
	d, err := duration(field, m)
	if err == nil && d == 0 {
		err = fmt.Errorf("%s: it is 0", field)
	}
	return d, err
}
