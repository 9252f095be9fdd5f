package ratelimit_test

import (
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"unsafe"
	"weak"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

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
	servers := []*grpc.ClientConn{listen(t, s.Limiter, text), listen(t, broken, text)}

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

// All strings of a call are parts of one, API key included, so whoever keeps any keeps them all.
func TestNothingOfACallIsKept(t *testing.T) {
	t.Parallel()
	manifests := strings.ReplaceAll(holders, "max: 10}]}", "max: 10}], concurrency: {max: 1}}") + "\nmodels: {large: {models: [gpt-large]}}"
	s := serve(t, manifests, keepLog(slog.DiscardHandler))
	for name, parts := range map[string][]string{
		"of a model that an object names":   {"sk-alice", gatewayName, "chat", "gpt-large"},
		"that is one too many":              {"sk-alice", gatewayName, "chat", "gpt-large"},
		"of a model that no object names":   {"sk-bob", gatewayName, "images", "made-up"},
		"with a key that nobody has":        {"sk-nobody", gatewayName, "chat", "gpt-large"},
		"at a gateway that is not there":    {"sk-alice", "team/nowhere", "chat", "gpt-large"},
		"with a key that is suspended":      {"sk-suspended", gatewayName, "chat", "gpt-large"},
		"with a model that cannot be named": {"sk-alice", gatewayName, "chat", " gpt-large"},
	} {
		if whole := s.askOnce(t, parts); whole.Value() != nil {
			t.Errorf("something of a call is kept %s", name)
		}
	}
}

// What a call brought is gone from the room in which the next one is read.
func TestTheRoomOfACallIsEmptyAfterIt(t *testing.T) {
	t.Parallel()
	entries, credentials, err := ratelimit.Leftover(written(descriptor.KeyHeader+"x-api-key", "sk-alice", descriptor.KeyModel, "gpt-5"))
	if err != nil || len(entries) == 0 || len(credentials) == 0 {
		t.Fatalf("the room has %d entries and %d credentials, error %v", len(entries), len(credentials), err)
	}
	for _, e := range entries {
		if e != (descriptor.Entry{}) {
			t.Errorf("the entry %+v is left", e)
		}
	}
	for _, c := range credentials {
		if c != (descriptor.Credential{}) {
			t.Errorf("the credential %q is left", c.Reveal())
		}
	}
}

// askOnce reserves by strings that are parts of one, keeps none of them and returns where they began.
func (s *service) askOnce(t *testing.T, parts []string) weak.Pointer[byte] {
	t.Helper()
	b := []byte(strings.Join(parts, "\n") + strings.Repeat(" ", 100)) // Small things are put together.
	cut := strings.Split(unsafe.String(&b[0], len(b)-100), "\n")      //nolint:gosec // Nobody writes to b any more.
	s.ask(t, &descriptor.Reserve{
		Credentials: []descriptor.Credential{bearer("Bearer " + cut[0])}, Client: "192.0.2.1", Protocol: descriptor.ProtocolOpenAIChat,
		Gateway: cut[1], Resource: cut[2], Model: cut[3],
	})
	whole := weak.Make(&b[0])
	runtime.GC()
	return whole
}

// exchange sends a reserve, its settlement and a false settlement, and writes into the log what Envoy would see, but for the
// lease, which must not be in the log otherwise.
func exchange(t *testing.T, server *grpc.ClientConn, log *lockedBuffer, d *commonv3.RateLimitDescriptor) {
	t.Helper()
	client := rlsv3.NewRateLimitServiceClient(server)
	answer, err := client.ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Descriptors: []*commonv3.RateLimitDescriptor{d}})
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
			if _, err := client.ShouldRateLimit(t.Context(),
				&rlsv3.RateLimitRequest{Descriptors: []*commonv3.RateLimitDescriptor{settling(told, 200, 1)}}); err != nil {
				t.Errorf("settling: %v", err)
			}
		}
	}
	_, _ = log.Write([]byte(answer.String()))
}
