package ratelimit_test

import (
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"strings"
	"testing"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/tierkeeper/tierkeeper/descriptor"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// Whatever happens to a request, no log, error or answer holds its API key, the key's digest or the lease.
func TestAPIKeysAndLeasesAreToldToNobody(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	text := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	manifests := strings.ReplaceAll(holders, "max: 10}]}", "max: 10}], concurrency: {max: 1}}")
	s := serve(t, manifests, keepLog(everything(&log).Handler()))
	broken := ratelimit.New(&failing{s.store, errBroken}, secret, keepLog(text.Handler()), ratelimit.WithClock(s.clock.now))
	broken.SetTable(s.table)
	servers := []*ratelimit.Server{ratelimit.NewServer(s.Limiter, text), ratelimit.NewServer(broken, text)}

	keys := []string{"sk-alice", "sk-bob", "sk-suspended", "sk-pending", "sk-foreign", "sk-nobody", "sk-made-up"}
	for _, server := range servers {
		for range 2 { // The second request of sk-alice is one too many.
			for _, key := range keys {
				exchange(t, server, &log, reserving(key, 1))
			}
		}
		two := reserving("sk-alice", 1)
		two.Entries = append(two.Entries, entry(descriptor.KeyHeader+"x-api-key", "sk-bob"), entry(descriptor.KeyQuery+"key", "sk-nobody"))
		exchange(t, server, &log, two)
		nowhere := reserving("sk-alice", 1)
		nowhere.Entries = append(nowhere.Entries, entry(descriptor.KeyGateway, "team/nowhere"))
		exchange(t, server, &log, nowhere)
		nothing := reserving("sk-alice", 1)
		nothing.Entries[0].Value = "sk-alice"
		exchange(t, server, &log, nothing)
	}

	got := log.String()
	for _, mention := range []string{"reserved", "settled", "dropped a settle", "could not count"} {
		if !strings.Contains(got, mention) {
			t.Fatalf("the log does not tell %q, so it proves nothing:\n%s", mention, got)
		}
	}
	for _, key := range keys {
		digest := policy.HashKey([]byte(key))
		for name, secret := range map[string]string{
			"the key":            key,
			"the key in hex":     hex.EncodeToString([]byte(key)),
			"the key in base64":  base64.RawStdEncoding.EncodeToString([]byte(key))[:8],
			"the digest":         hex.EncodeToString(digest[:]),
			"the digest's bytes": string(digest[:]),
		} {
			if i := strings.Index(got, secret); i >= 0 {
				t.Errorf("%s of %s is in the log: …%s…", name, key, got[max(0, i-80):min(len(got), i+80)])
			}
		}
	}
}

// exchange sends a reserve, its settlement and a false settlement, and writes into the log what Envoy would see, but for the
// lease, which must not be in the log otherwise.
func exchange(t *testing.T, server *ratelimit.Server, log *lockedBuffer, d *commonv3.RateLimitDescriptor) {
	t.Helper()
	answer, err := server.ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Descriptors: []*commonv3.RateLimitDescriptor{d}})
	if err != nil {
		_, _ = log.Write([]byte(err.Error()))
		return
	}
	if lease := answer.GetDynamicMetadata().GetFields()[descriptor.KeyLease].GetStringValue(); lease != "" {
		defer func() {
			for _, part := range []string{lease, lease[:16], lease[len(lease)-16:]} {
				if strings.Contains(log.String(), part) {
					t.Error("a lease is in the log")
				}
			}
		}()
		delete(answer.GetDynamicMetadata().GetFields(), descriptor.KeyLease)
		for _, told := range []string{lease[1:], lease} {
			if _, err := server.ShouldRateLimit(t.Context(),
				&rlsv3.RateLimitRequest{Descriptors: []*commonv3.RateLimitDescriptor{settling(told, 200, 1)}}); err != nil {
				t.Errorf("settling: %v", err)
			}
		}
	}
	_, _ = log.Write([]byte(answer.String()))
}
