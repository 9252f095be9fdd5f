package command_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/command"
	"github.com/tierkeeper/tierkeeper/counter/redis"
	"github.com/tierkeeper/tierkeeper/counter/redis/redistest"
	"github.com/tierkeeper/tierkeeper/internal/testca"
)

// TestRedisIsShownACertificate has Redis ask for one, and the files change.
func TestRedisIsShownACertificate(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "authority")
	ours := testca.NewMount(t, ca.PEM, ca.Issue(t, "tierkeeper"))
	its := testca.NewMount(t, ca.PEM, ca.Issue(t, "127.0.0.1"))
	server := redistest.StartTLS(t, its.Cert(), its.Key(), its.CA(), "--tls-auth-clients", "yes")
	connect := func(more ...string) error {
		t.Helper()
		o, err := command.RedisOptions(append([]string{"--redis=" + server.Addr, "--redis-tls", "--redis-ca=" + ours.CA()}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		o.Log = slog.New(slog.DiscardHandler)
		s, err := redis.New(t.Context(), *o)
		if err == nil {
			s.Close()
		}
		return err
	}
	pair := []string{"--redis-cert=" + ours.Cert(), "--redis-key=" + ours.Key()}
	if err := connect(pair...); err != nil {
		t.Error(err)
	}
	if err := connect(); err == nil || !strings.Contains(err.Error(), "asks for a certificate") {
		t.Errorf("without a certificate the error is %v", err)
	}

	o, err := command.RedisOptions(append([]string{"--redis=" + server.Addr, "--redis-tls", "--redis-ca=" + ours.CA()}, pair...)...)
	if err != nil {
		t.Fatal(err)
	}
	ours.Rotate(t, ca.PEM, testca.New(t, "another").Issue(t, "tierkeeper"))
	o.Log = slog.New(slog.DiscardHandler)
	if s, err := redis.New(t.Context(), *o); err == nil {
		s.Close()
		t.Error("a certificate that was replaced by one that Redis does not believe is shown still")
	}
}

func TestFlagsOfRedisThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "authority")
	one, other := testca.NewMount(t, ca.PEM, ca.Issue(t, "one")), testca.NewMount(t, ca.PEM, ca.Issue(t, "other"))
	for want, flags := range map[string][]string{
		"--redis is empty":                   {"--redis="},
		"--redis is a URL":                   {"--redis=rediss://user:secret@127.0.0.1:6379/1"},
		"--redis names a user":               {"--redis=user:secret@127.0.0.1:6379"},
		"redis.svc is not HOST:PORT":         {"--redis=127.0.0.1:6379,redis.svc"},
		"give each address as HOST:PORT":     {"--redis=127.0.0.1:1,"},
		"--redis is missing":                 {"--redis-cert=" + one.Cert()},
		"say nothing without --redis-tls":    {"--redis=127.0.0.1:1", "--redis-cert=" + one.Cert(), "--redis-key=" + one.Key()},
		"--redis-key go together":            {"--redis=127.0.0.1:1", "--redis-tls", "--redis-cert=" + one.Cert()},
		"--redis-cert and --redis-key: open": {"--redis=127.0.0.1:1", "--redis-tls", "--redis-cert=not-there", "--redis-key=" + one.Key()},
		"does not match":                     {"--redis=127.0.0.1:1", "--redis-tls", "--redis-cert=" + one.Cert(), "--redis-key=" + other.Key()},
	} {
		if _, err := command.RedisOptions(flags...); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("with %v the error is %v, want one with %q, and no password", flags, err, want)
		}
	}
}
