package standalone

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/secret"
)

// notes are what is in order and yet hardly meant.
func notes(t *policy.Table, s *secret.Keeper, in *policy.Input, verdicts []policy.Verdict, now time.Time) []string {
	gateways := t.Gateways()
	if len(gateways) == 0 {
		return []string{"no QuotaGateway is accepted, so nothing is served"}
	}
	var lines []string
	for _, v := range verdicts {
		admitted := func(g *policy.Gateway) bool { return g.Admits(v.Object.Namespace) }
		if v.Object.Kind == policy.KindQuota && !slices.ContainsFunc(gateways, admitted) {
			lines = append(lines, fmt.Sprintf("%s: no QuotaGateway admits keys of namespace %s; see its spec.allowedKeys", v.Object, v.Object.Namespace))
		}
	}
	for _, g := range gateways {
		for _, note := range slices.Concat(modelNotes(g), prefixNotes(g), certificateNotes(g, s, now)) {
			lines = append(lines, fmt.Sprintf("QuotaGateway %s: %s", g.Name, note))
		}
	}
	for _, n := range policy.Idle(in, verdicts) {
		lines = append(lines, fmt.Sprintf("%s: %s: %s", n.Object, n.Field, n.Message))
	}
	return lines
}

// modelNotes finds a gateway that refuses every model.
func modelNotes(g *policy.Gateway) []string {
	if g.DenyUnknownModels && !g.KnowsAny() {
		return []string{"no ModelLimit counts here, by spec.modelLimitSelector or because there is none, and spec.unknownModels is Deny: every model is answered 404"}
	}
	return nil
}

// prefixNotes finds keys that run into the word before them.
func prefixNotes(g *policy.Gateway) []string {
	var lines []string
	for _, source := range g.Sources {
		if strings.EqualFold(source.Header, "authorization") && source.Prefix == "" {
			lines = append(lines, `clients send "Bearer KEY" in Authorization, and without prefix: "Bearer " in spec.identity.sources all of it is taken for the key`)
		}
	}
	for _, b := range g.Backends {
		if c := b.Credential; c != nil && strings.TrimRightFunc(c.Prefix, unicode.IsLetter) != c.Prefix {
			lines = append(lines, fmt.Sprintf("the provider of backend %s gets %q in %s; end the prefix with a space", b.Name, c.Prefix+"KEY", c.Header))
		}
	}
	return lines
}

// certificateNotes finds certificates that clients will not accept.
func certificateNotes(g *policy.Gateway, s *secret.Keeper, now time.Time) []string {
	var lines []string
	for _, l := range g.Listeners {
		known, named := 0, false
		for _, name := range l.Certificates {
			leaf := certificateOf(s, name)
			if leaf == nil {
				continue // The verdict says so.
			}
			known++
			named = named || leaf.VerifyHostname(l.Hostname) == nil
			if now.After(leaf.NotAfter) {
				lines = append(lines, fmt.Sprintf("the certificate in Secret %s, of listener %s, ended on %s", name, l.Name, leaf.NotAfter.UTC().Format(time.DateOnly)))
			}
		}
		if known > 0 && !named && l.Hostname != "" && !strings.HasPrefix(l.Hostname, "*.") {
			lines = append(lines, fmt.Sprintf("listener %s serves %s, and it has no certificate for that name", l.Name, l.Hostname))
		}
	}
	return lines
}

// certificateOf is nil if none is in use.
func certificateOf(s *secret.Keeper, name policy.Name) *x509.Certificate {
	block, _ := pem.Decode(s.Value(policy.SecretValue{Secret: name, Key: policy.CertificateKey, Purpose: policy.ForCertificate}))
	if block == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return leaf
}
