package ratelimit_test

import (
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// sealer is for leases of the limiters of the tests.
var sealer = ratelimit.NewSealer(secret)

// maxLease is the size that the design allows a lease.
const maxLease = 1024

var metrics = []policy.Metric{policy.Requests, policy.Tokens, policy.InputTokens, policy.OutputTokens, policy.ConcurrentRequests}

func drawLease(t *rapid.T) ratelimit.Lease {
	amount := rapid.Int64Range(0, ratelimit.MaxReserved)
	l := ratelimit.Lease{
		Taken:    time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "taken")),
		Protocol: rapid.SampledFrom(descriptor.Protocols).Draw(t, "protocol"),
		Stream:   rapid.Bool().Draw(t, "stream"),
		Model:    rapid.Uint32().Draw(t, "model"), CachedPercent: rapid.Int64Range(0, 100).Draw(t, "cachedPercent"),
		InputBytes: amount.Draw(t, "inputBytes"),
		Input:      amount.Draw(t, "input"), Output: amount.Draw(t, "output"),
	}
	copy(l.ID[:], rapid.SliceOfN(rapid.Byte(), len(l.ID), len(l.ID)).Draw(t, "id"))
	for range rapid.IntRange(0, counter.MaxLimits).Draw(t, "counters") {
		c := ratelimit.Charge{
			Metric:  rapid.SampledFrom(metrics).Draw(t, "metric"),
			Window:  rapid.SampledFrom(slices.Collect(maps.Values(windows))).Draw(t, "window"),
			Charged: rapid.Int64Range(0, 2*ratelimit.MaxReserved).Draw(t, "charged"),
		}
		if c.Window == counter.InUse {
			c.Charged = 1
		}
		copy(c.Key[:], rapid.SliceOfN(rapid.Byte(), len(c.Key), len(c.Key)).Draw(t, "key"))
		l.Charges = append(l.Charges, c)
	}
	return l
}

func TestALeaseIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := drawLease(t)
		sealed := sealer.Seal(want)
		if len(sealed) > maxLease {
			t.Fatalf("the lease has %d bytes, at most %d are allowed", len(sealed), maxLease)
		}
		got, err := sealer.Open(sealed)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("lease (-want +got):\n%s", diff)
		}
	})
}

// widest is a lease than which none is longer.
func widest() ratelimit.Lease {
	l := ratelimit.Lease{
		Taken: time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC), Protocol: descriptor.ProtocolAnthropic, Stream: true,
		Model: 1<<32 - 1, CachedPercent: 100, InputBytes: ratelimit.MaxReserved,
		Input: ratelimit.MaxReserved, Output: ratelimit.MaxReserved,
	}
	for i := range counter.MaxLimits {
		l.Charges = append(l.Charges, ratelimit.Charge{
			Key: counter.Key{byte(i)}, Metric: policy.Tokens, Window: counter.Month, Charged: 2 * ratelimit.MaxReserved,
		})
	}
	return l
}

func TestTheLongestLeaseFitsIntoAKibibyte(t *testing.T) {
	t.Parallel()
	if got := len(sealer.Seal(widest())); got > maxLease {
		t.Errorf("the lease has %d bytes, at most %d are allowed", got, maxLease)
	}
}

// The same of a real request, whose client writes the largest number it can.
func TestTheLongestLeaseOfARequestFitsIntoAKibibyte(t *testing.T) {
	t.Parallel()
	var some []string
	for _, metric := range []string{"Tokens", "InputTokens", "OutputTokens"} {
		for _, per := range []string{"Second", "Minute", "Hour", "Day", "Month"} {
			some = append(some, metric+" "+per+" 9007199254740991")
		}
	}
	s := serve(t, "tiers: {plan: {limits: "+rates(some...)+", resources: [{resource: chat, limits: "+rates(some...)+"}]}}\n"+
		"models: {large: {models: [gpt-5], shared: "+rates(some[0], some[14])+"}}")
	request := with(chat("sk-alice"), func(r *descriptor.Reserve) { r.MaxOutput, r.InputBytes = 1<<53-1, 1<<53-1 })
	d := s.pass(t, request)
	if got := len(s.used(t, request)); got != counter.MaxLimits {
		t.Fatalf("the request meets %d limits, want %d", got, counter.MaxLimits)
	}
	if got := len(d.Lease); got > maxLease {
		t.Errorf("the lease has %d bytes, at most %d are allowed", got, maxLease)
	}
	s.end(t, d, done)
}

func TestALeaseThatIsNotOursIsRefused(t *testing.T) {
	t.Parallel()
	sealed := sealer.Seal(widest())
	content, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		t.Fatal(err)
	}
	content = content[:len(content)-16]
	flipped := []byte(sealed)
	flipped[100] ^= 1
	for name, lease := range map[string]string{
		"empty":                          "",
		"forged":                         base64.RawURLEncoding.EncodeToString(append(slices.Clip(content), make([]byte, 16)...)),
		"changed":                        string(flipped),
		"truncated":                      sealed[:len(sealed)-4],
		"its signature alone":            sealed[len(sealed)-22:],
		"of another secret":              ratelimit.NewSealer([]byte("another secret")).Seal(widest()),
		"no base64":                      "*" + sealed[1:],
		"padded base64":                  sealed + "=",
		"too long":                       strings.Repeat(sealed, 5),
		"of another version":             sealer.Sign(append([]byte{1}, content[1:]...)),
		"signed, but without content":    sealer.Sign(nil),
		"signed, but only a version":     sealer.Sign(content[:1]),
		"signed, but truncated":          sealer.Sign(content[:len(content)-3]),
		"signed, but with more behind":   sealer.Sign(append(slices.Clip(content), 0)),
		"signed, but with a huge number": sealer.Sign(append(content[:9:9], 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := sealer.Open(lease)
			if err == nil {
				t.Fatalf("the lease was read: %+v", got)
			}
			if len(lease) > 8 && strings.Contains(err.Error(), lease[:8]) {
				t.Errorf("the error holds text of the lease: %v", err)
			}
		})
	}
}

func TestTheSecretOfALeaseIsTheOneOfTheLimiter(t *testing.T) {
	t.Parallel()
	s := serve(t, oneTier("{concurrency: {max: 1}}"))
	d := s.pass(t, chat("sk-alice"))
	l, err := sealer.Open(d.Lease)
	if err != nil {
		t.Fatal(err)
	}
	if !l.Taken.Equal(start) {
		t.Errorf("the lease was taken at %v, want %v", l.Taken, start)
	}
	s.refuse(t, chat("sk-alice"), http.StatusTooManyRequests)
}

func TestNoTwoRequestsShareALeaseID(t *testing.T) {
	t.Parallel()
	seen := map[counter.LeaseID]bool{}
	for range 10 { // Restarts and replicas begin anew.
		s := serve(t, oneTier("{}"))
		for range 100 {
			l, err := sealer.Open(s.pass(t, chat("sk-alice")).Lease)
			if err != nil {
				t.Fatal(err)
			}
			if seen[l.ID] {
				t.Fatalf("the id %s was given twice", l.ID)
			}
			seen[l.ID] = true
		}
	}
}

// FuzzOpenLease feeds the reader of leases with anything, and with anything that carries a good signature.
func FuzzOpenLease(f *testing.F) {
	sealed := sealer.Seal(widest())
	content, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(sealed))
	f.Add(content[:len(content)-16])
	f.Add([]byte{2})
	f.Add(content[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := sealer.Open(string(b)); err == nil && sealer.Seal(l) != sealed {
			t.Errorf("a lease that nobody signed was read: %+v", l)
		}
		l, err := sealer.Open(sealer.Sign(b))
		if err != nil || len(l.Charges) > counter.MaxLimits {
			return
		}
		resealed := sealer.Seal(l)
		again, err := sealer.Open(resealed)
		if err != nil {
			t.Fatalf("the lease %+v cannot be read again: %v", l, err)
		}
		if sealer.Seal(again) != resealed {
			t.Errorf("the lease %+v was read again as %+v", l, again)
		}
	})
}
