package policy

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// What holds where a QuotaGateway says nothing.
const (
	defaultMaxBodyBytes   = 32 << 20
	defaultConnectTimeout = 5 * time.Second
	defaultIdleTimeout    = 600 * time.Second
)

// compileGateways makes those gateways anew that do not stand as they are.
func (c *compilation) compileGateways() {
	held := make(map[Name]*heldGateway, len(c.in.Gateways))
	for _, g := range byAge(c.in.Gateways) {
		name := nameOf(&g.ObjectMeta)
		if h := c.held.gateways[name]; h != nil && c.gatewayStands(g, h) {
			c.judge(KindGateway, &g.ObjectMeta)
			held[name] = h
		} else if h = c.compileGateway(name, g); h != nil {
			held[name] = h
		}
	}
	c.held.gateways = held
	for name, h := range held {
		c.table.gateways[name] = h.gateway
		if h.record != nil {
			c.table.lastGateways[name.String()] = *h.record
		}
	}
	c.gateways = c.table.Gateways()
}

// compileGateway is nil where the gateway is not served.
func (c *compilation) compileGateway(name Name, g *v1alpha1.QuotaGateway) *heldGateway {
	problems, uses := c.checkGateway(name, &g.Spec), c.checkUses(secretUses(name.Namespace, &g.Spec))
	c.judge(KindGateway, &g.ObjectMeta, slices.Concat(problems, uses)...)
	written := AcceptedGateway{UID: g.UID, Generation: g.Generation, Spec: g.Spec, Tiers: c.assignedTiers(&g.Spec)}
	last, known := c.lastGateway(&g.ObjectMeta)
	switch {
	case len(problems)+len(uses) == 0:
		h := c.serve(name, &written, true)
		h.identity = identityOf(&g.ObjectMeta)
		return h
	case known && (len(problems) > 0 || !equality.Semantic.DeepEqual(last.Spec, g.Spec)):
		return c.serve(name, &last, true)
	case len(problems) == 0: // A Secret that is missing costs no more than what needs it.
		return c.serve(name, &written, known)
	default:
		return nil
	}
}

// serve makes a gateway as it is in the record, and keeps that where it was accepted.
func (c *compilation) serve(name Name, record *AcceptedGateway, accepted bool) *heldGateway {
	h := &heldGateway{gateway: c.newGateway(name, record)}
	h.sum = c.sumOfGateway(h.gateway)
	if accepted {
		h.record = record
	}
	return h
}

func (c *compilation) checkGateway(name Name, spec *v1alpha1.QuotaGatewaySpec) []Problem {
	problems := checkSelector(spec.ModelLimitSelector, "spec.modelLimitSelector")
	if len(problems) > 0 {
		return problems
	}
	models := c.catalogOf(spec.ModelLimitSelector)
	for _, s := range strangers(&spec.Identity) {
		if p := c.checkTier(name.Namespace, s.tier, s.path); p != nil {
			problems = append(problems, p...)
			continue
		}
		t := c.compiled[s.tier]
		if p := c.checkSize(&Holder{tier: t}, t, s.path, models); p != nil {
			problems = append(problems, *p)
		}
	}
	if spec.AllowedKeys != nil {
		problems = append(problems, checkSelector(spec.AllowedKeys.Namespaces.Selector, "spec.allowedKeys.namespaces.selector")...)
	}
	return append(problems, checkRoutes(spec)...)
}

// checkRoutes finds matches that two routes share, also below a path prefix, and paths that no request can have: Envoy makes
// paths plain before it compares them.
func checkRoutes(spec *v1alpha1.QuotaGatewaySpec) []Problem {
	var problems []Problem
	type claim struct {
		v1alpha1.Match
		gemini bool
	}
	taken := map[claim]string{}
	for _, r := range spec.Routes {
		for i, match := range r.Matches {
			field := fmt.Sprintf("spec.routes[name=%s].matches[%d]", r.Name, i)
			written := match.Path.Value
			match.Path.Value = plainPath(match.Path)
			for _, prefix := range append([]string{""}, spec.PathPrefixes...) {
				m := claim{match, r.Protocol == v1alpha1.ProtocolGeminiGenerateContent}
				m.Path.Value = below(prefix, match.Path.Value)
				if other, found := taken[m]; found {
					conflict := Problem{
						v1alpha1.ReasonInvalidRoute, field,
						fmt.Sprintf("Route %s matches the same requests; give each match to one route.", other),
					}
					// Two routes that share a match share it below every prefix, which is one mistake.
					if !slices.Contains(problems, conflict) {
						problems = append(problems, conflict)
					}
				}
				taken[m] = r.Name
			}
			if clean := path.Clean(written); clean != match.Path.Value && clean != strings.TrimSuffix(match.Path.Value, "/") {
				problems = append(problems, Problem{
					v1alpha1.ReasonInvalidRoute, field + ".path.value",
					fmt.Sprintf("No request can have the path %s; write %s.", written, clean),
				})
			}
		}
	}
	return problems
}

// below is a path of a route as it reads below a path prefix of the gateway.
func below(prefix, path string) string {
	if prefix != "" && path == "/" {
		return prefix
	}
	return prefix + path
}

// plainPath drops the slash at the end of a prefix: the prefix matches at "/" boundaries in any case.
func plainPath(m v1alpha1.PathMatch) string {
	if m.Type == v1alpha1.PathMatchPathPrefix && m.Value != "/" {
		return strings.TrimRight(m.Value, "/")
	}
	return m.Value
}

type stranger struct{ path, tier string }

func strangers(id *v1alpha1.Identity) []stranger {
	var out []stranger
	if t := assignedTier(id.MissingKey); t != "" {
		out = append(out, stranger{"spec.identity.missingKey.tierRef.name", t})
	}
	if t := assignedTier(id.UnknownKey); t != "" {
		out = append(out, stranger{"spec.identity.unknownKey.tierRef.name", t})
	}
	return out
}

func assignedTier(s *v1alpha1.Stranger) string {
	if s == nil || s.TierRef == nil || s.Action != v1alpha1.StrangerAssignTier {
		return ""
	}
	return s.TierRef.Name
}

func (c *compilation) assignedTiers(spec *v1alpha1.QuotaGatewaySpec) map[string]v1alpha1.RateLimitTierSpec {
	var tiers map[string]v1alpha1.RateLimitTierSpec
	for _, s := range strangers(&spec.Identity) {
		if t := c.tiers[s.tier]; t != nil {
			if tiers == nil {
				tiers = map[string]v1alpha1.RateLimitTierSpec{}
			}
			tiers[s.tier] = acceptedTier(t).Spec
		}
	}
	return tiers
}

func (c *compilation) newGateway(name Name, from *AcceptedGateway) *Gateway {
	spec := &from.Spec
	g := &Gateway{
		Name: name, MaxBodyBytes: defaultMaxBodyBytes,
		DenyUnknownModels: spec.UnknownModels != nil && spec.UnknownModels.Action == v1alpha1.UnknownModelsDeny,
		admits:            c.admits(name.Namespace, spec.AllowedKeys),
		models:            c.catalogOf(spec.ModelLimitSelector),
		secrets:           secretUses(name.Namespace, spec),
		AllowUncounted:    spec.Failure != nil && spec.Failure.WhenServiceUnavailable == v1alpha1.ServiceUnavailableAllow,
		Shadow:            spec.Enforcement == v1alpha1.EnforcementShadow,
	}
	if spec.Failure != nil {
		g.StoreOut = storeOuts[spec.Failure.WhenStoreUnavailable]
	}
	if !g.Shadow {
		g.MaxWait = g.models.longestWait()
	}
	for _, l := range spec.Listeners {
		g.Listeners = append(g.Listeners, newListener(name.Namespace, &l))
	}
	for _, b := range spec.Backends {
		g.Backends = append(g.Backends, newBackend(name.Namespace, &b))
	}
	if n := spec.Identity.TrustedProxyHops; n != nil {
		g.TrustedProxyHops = uint32(*n) //nolint:gosec // The schema bounds it to 0 to 16.
	}
	g.Routes = newRoutes(spec)
	for _, s := range spec.Identity.Sources {
		g.Sources = append(g.Sources, KeySource{Header: strings.ToLower(s.Header), Prefix: s.Prefix, Query: s.QueryParameter})
	}
	assign := func(s *v1alpha1.Stranger) *Assigned {
		t, ok := from.Tiers[assignedTier(s)]
		if !ok {
			return nil
		}
		was := &AcceptedTier{s.TierRef.Name, t}
		return &Assigned{gateway: name, tier: c.tierAs(was.Key(), was)}
	}
	g.MissingKey, g.UnknownKey = assign(spec.Identity.MissingKey), assign(spec.Identity.UnknownKey)
	g.setDialects(spec.Headers)
	g.Abuse = newAbuseProtection(spec.AbuseProtection)
	if spec.Requests != nil && spec.Requests.MaxBodyBytes > 0 {
		g.MaxBodyBytes = spec.Requests.MaxBodyBytes
	}
	return g
}

// admits names only namespaces that hold quotas: of others there are no keys.
func (c *compilation) admits(own string, keys *v1alpha1.AllowedKeys) admission {
	only := admission{namespaces: map[string]bool{own: true}}
	if keys == nil {
		return only
	}
	switch from := keys.Namespaces; from.From {
	case v1alpha1.NamespacesAll:
		return admission{all: true}
	case v1alpha1.NamespacesSelector:
		return admission{namespaces: c.selected(from.Selector)}
	default:
		return only
	}
}

func newListener(namespace string, l *v1alpha1.Listener) Listener {
	out := Listener{Name: l.Name, Port: uint32(l.Port), Hostname: l.Hostname} //nolint:gosec // The schema bounds ports to 1 to 65535.
	if l.TLS != nil {
		for _, ref := range l.TLS.CertificateRefs {
			out.Certificates = append(out.Certificates, Name{namespace, ref.Name})
		}
	}
	return out
}

func newBackend(namespace string, b *v1alpha1.Backend) Backend {
	value := func(ref *v1alpha1.SecretKeyRef, purpose Purpose) SecretValue {
		return SecretValue{Name{namespace, ref.Name}, ref.Key, purpose}
	}
	out := Backend{Name: b.Name, ConnectTimeout: defaultConnectTimeout, IdleTimeout: defaultIdleTimeout}
	for _, e := range b.Endpoints {
		out.Endpoints = append(out.Endpoints, Endpoint{e.Address, uint32(e.Port), e.Pool}) //nolint:gosec // The schema bounds ports to 1 to 65535.
	}
	if t := b.TLS; t != nil {
		out.TLS = &BackendTLS{ServerName: t.SNI}
		if t.CABundleRef != nil {
			bundle := value(t.CABundleRef, ForAuthorities)
			out.TLS.CABundle = &bundle
		}
	}
	if c := b.Credential; c != nil {
		out.Credential = &BackendCredential{strings.ToLower(c.Header), c.Prefix, value(&c.SecretKeyRef, ForCredential)}
	}
	if t := b.Timeouts; t != nil {
		if t.ConnectSeconds > 0 {
			out.ConnectTimeout = seconds(t.ConnectSeconds)
		}
		if t.IdleStreamSeconds > 0 {
			out.IdleTimeout = seconds(t.IdleStreamSeconds)
		}
	}
	return out
}

// newRoutes puts the best match first: an exact path before a prefix, a longer prefix before a shorter one, the calls of
// Gemini before what else is below their prefix, a named method before any.
func newRoutes(spec *v1alpha1.QuotaGatewaySpec) []Route {
	var out []Route
	for _, r := range spec.Routes {
		for _, m := range r.Matches {
			for _, prefix := range append([]string{""}, spec.PathPrefixes...) {
				out = append(out, Route{
					Name: r.Name, Path: below(prefix, plainPath(m.Path)), PathPrefix: prefix,
					Prefix: m.Path.Type == v1alpha1.PathMatchPathPrefix, Method: string(m.Method),
					Backend: r.BackendName, Protocol: protocolOf(r.Protocol), Resource: r.Resource, Model: r.Model,
					Unmetered: r.Metering == v1alpha1.MeteringUnmetered,
				})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Route) int {
		return cmp.Or(
			compareBool(a.Prefix, b.Prefix),
			cmp.Compare(len(b.Path), len(a.Path)),
			cmp.Compare(a.Path, b.Path),
			compareBool(a.Protocol != Gemini, b.Protocol != Gemini),
			compareBool(a.Method == "", b.Method == ""),
			cmp.Compare(a.Method, b.Method),
		)
	})
	return out
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (g *Gateway) setDialects(h *v1alpha1.ResponseHeaders) {
	if h == nil {
		return
	}
	for _, d := range h.Dialects {
		switch d.Type {
		case v1alpha1.DialectPerMetric:
			if m := d.PerMetric; m != nil {
				g.PerMetric = &PerMetric{resets[m.RequestsReset], resets[m.TokensReset], headerWindow(m.Window)}
			}
		case v1alpha1.DialectPerResource:
			g.PerResource = &PerResource{}
			if r := d.PerResource; r != nil {
				g.PerResource.Window = headerWindow(r.Window)
			}
		case v1alpha1.DialectIETF:
			g.IETF = &IETFHeaders{}
			if i := d.IETF; i != nil {
				g.IETF.Window = headerWindow(i.Window)
			}
		case v1alpha1.DialectAnthropic:
			g.Anthropic = &AnthropicHeaders{}
			if a := d.Anthropic; a != nil {
				g.Anthropic.Window = headerWindow(a.Window)
			}
		}
	}
}

// headerWindow is NoPer for Nearest and where nothing is said.
func headerWindow(w v1alpha1.HeaderWindow) Per { return pers[v1alpha1.Per(w)] }

var resets = map[v1alpha1.ResetFormat]Reset{
	v1alpha1.ResetUnixSeconds:  ResetUnixSeconds,
	v1alpha1.ResetDeltaSeconds: ResetDeltaSeconds,
	v1alpha1.ResetDuration:     ResetDuration,
}
