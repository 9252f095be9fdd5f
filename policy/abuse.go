package policy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// What holds where an abuseProtection says nothing. A provider's 5xx are not among the statuses: its outage must not block
// those whom it fails.
const (
	defaultMaxFailures   = 20
	defaultFailureWindow = 30 * time.Second
	defaultBlock         = 30 * time.Second
)

var defaultCounted = []StatusRange{{400, 499}}

// AbuseProtection says when a gateway blocks who gets too many unsuccessful responses.
type AbuseProtection struct {
	MaxFailures int           // within Window that are put up with
	Window      time.Duration // any so long, and no calendar unit
	Block       time.Duration
	Counted     []StatusRange
	Exempt      []netip.Prefix
}

// A StatusRange is HTTP statuses from Min to Max, both included.
type StatusRange struct{ Min, Max int }

// Counts reports whether a response of the status is unsuccessful.
func (a *AbuseProtection) Counts(status int) bool {
	return slices.ContainsFunc(a.Counted, func(r StatusRange) bool { return r.Min <= status && status <= r.Max })
}

// Exempts reports whether the protection leaves the client alone, whatever it does.
func (a *AbuseProtection) Exempts(client netip.Addr) bool {
	client = client.Unmap().WithZone("")
	return slices.ContainsFunc(a.Exempt, func(p netip.Prefix) bool { return p.Contains(client) })
}

func newAbuseProtection(spec *v1alpha1.AbuseProtection) *AbuseProtection {
	if spec == nil {
		return nil
	}
	a := &AbuseProtection{MaxFailures: defaultMaxFailures, Window: defaultFailureWindow, Block: defaultBlock, Counted: defaultCounted}
	if spec.MaxFailures > 0 {
		a.MaxFailures = int(spec.MaxFailures)
	}
	if spec.WindowSeconds > 0 {
		a.Window = seconds(spec.WindowSeconds)
	}
	if spec.BlockSeconds > 0 {
		a.Block = seconds(spec.BlockSeconds)
	}
	if len(spec.CountedStatuses) > 0 {
		a.Counted = nil
	}
	for _, r := range spec.CountedStatuses {
		a.Counted = append(a.Counted, StatusRange{int(r.Min), int(r.Max)})
	}
	for _, text := range spec.ExemptCIDRs {
		if p, err := netip.ParsePrefix(text); err == nil { // The schema lets nothing else through.
			a.Exempt = append(a.Exempt, p)
		}
	}
	return a
}
