package policy_test

import (
	"net/netip"
	"testing"

	"github.com/tierkeeper/tierkeeper/policy"
)

func TestWhomAProtectionLeavesAlone(t *testing.T) {
	t.Parallel()
	a := policy.AbuseProtection{Exempt: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("2001:db8::/32"),
	}}
	for client, want := range map[string]bool{
		"10.255.0.1": true, "11.0.0.1": false, "192.0.2.200": true, "::ffff:10.1.2.3": true,
		"2001:db8:1::1": true, "2001:db9::1": false, "fe80::1%eth0": false,
	} {
		if got := a.Exempts(netip.MustParseAddr(client)); got != want {
			t.Errorf("%s is left alone: %t, want %t", client, got, want)
		}
	}
}

func TestWhichStatusesCount(t *testing.T) {
	t.Parallel()
	a := policy.AbuseProtection{Counted: []policy.StatusRange{{Min: 401, Max: 403}, {Min: 500, Max: 500}}}
	for status, want := range map[int]bool{0: false, 200: false, 400: false, 401: true, 402: true, 403: true, 404: false, 499: false, 500: true, 501: false} {
		if got := a.Counts(status); got != want {
			t.Errorf("%d counts: %t, want %t", status, got, want)
		}
	}
}
