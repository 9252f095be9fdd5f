package command

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tierkeeper/tierkeeper/counter/outage"
	"github.com/tierkeeper/tierkeeper/counter/redis"
)

// redisFlags say where the replicas of the service count together.
type redisFlags struct {
	redis.Options

	tls       bool
	ca        string
	cert, key string
	deadline  time.Duration
	flags     *pflag.FlagSet
}

func (f *redisFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	f.flags = flags
	flags.StringSliceVar(&f.Addresses, "redis", nil, "Redis or Valkey in which replicas count together, as HOST:PORT: one server, some nodes of a Redis Cluster, or the sentinels (default: this process counts alone)")
	flags.StringVar(&f.SentinelMaster, "redis-sentinel-master", "", "name by which sentinels know the Redis; --redis then lists the sentinels")
	flags.BoolVar(&f.Cluster, "redis-cluster", false, "fail unless --redis is a Redis Cluster, instead of finding out")
	flags.IntVar(&f.Database, "redis-database", 0, "number of the database; a Redis Cluster has only 0")
	flags.StringVar(&f.Username, "redis-username", "", "ACL user (default: the default user)")
	flags.StringVar(&f.PasswordFile, "redis-password-file", "", "file with its password, read for each new connection")
	flags.StringVar(&f.SentinelUsername, "redis-sentinel-username", "", "ACL user of the sentinels (default: the default user)")
	flags.StringVar(&f.SentinelPasswordFile, "redis-sentinel-password-file", "", "file with its password, read for each new connection")
	flags.BoolVar(&f.tls, "redis-tls", false, "speak TLS with Redis, and with the sentinels")
	flags.StringVar(&f.ca, "redis-ca", "", "file with the authorities from which certificates of Redis may come, in PEM (default: those that this machine trusts)")
	flags.StringVar(&f.cert, "redis-cert", "", "file with the certificate that Redis, and the sentinels, may ask for, in PEM, read for each new connection")
	flags.StringVar(&f.key, "redis-key", "", "file with its private key, in PEM, read with it")
	flags.StringVar(&f.Prefix, "redis-prefix", "", `beginning of all keys, which keeps installations apart that share a Redis (default "tk")`)
	flags.DurationVar(&f.deadline, "redis-deadline", outage.DefaultDeadline, "for how long requests wait for a Redis that answers none of them, before this replica counts for itself")
	for _, name := range []string{"redis-password-file", "redis-sentinel-password-file", "redis-ca", "redis-cert", "redis-key"} {
		must(cmd.MarkFlagFilename(name))
	}
}

// check finds what makes no sense.
func (f *redisFlags) check(leaseKeyFile string) error {
	switch {
	case f.flags.Changed("redis") && (len(f.Addresses) == 0 || slices.Contains(f.Addresses, "")):
		return errors.New("--redis is empty: give each address as HOST:PORT, or leave the flag out where one replica counts alone")
	case len(f.Addresses) == 0 && f.said():
		return errors.New("--redis is missing: the other flags of Redis say nothing without it")
	case len(f.Addresses) == 0:
		return nil
	case leaseKeyFile == "":
		return errors.New("--lease-key-file is missing: replicas that share a Redis must sign with one key, or none could settle what another has charged; make one with: openssl rand -hex 32")
	case f.ca != "" && !f.tls:
		return errors.New("--redis-ca says nothing without --redis-tls")
	case f.cert+f.key != "" && !f.tls:
		return errors.New("--redis-cert and --redis-key say nothing without --redis-tls")
	case (f.cert == "") != (f.key == ""):
		return errors.New("--redis-cert and --redis-key go together: give both, or none")
	case f.deadline < time.Millisecond:
		return errors.New("--redis-deadline must be at least 1ms: every answer takes a while")
	}
	for _, address := range f.Addresses {
		if err := checkAddress(address); err != nil {
			return err
		}
	}
	return nil
}

// checkAddress does not repeat what may hold a password.
func checkAddress(address string) error {
	switch _, port, err := net.SplitHostPort(address); {
	case strings.Contains(address, "://"):
		return errors.New("--redis is a URL: give HOST:PORT, and the rest by --redis-tls, --redis-username, --redis-password-file and --redis-database")
	case strings.Contains(address, "@"):
		return errors.New("--redis names a user or a password: give HOST:PORT, and them by --redis-username and --redis-password-file")
	case err != nil || port == "":
		return fmt.Errorf("--redis: %s is not HOST:PORT; the port of Redis is 6379, where nobody has chosen another", address)
	}
	return nil
}

// said reports whether any flag was given but --redis.
func (f *redisFlags) said() bool {
	o := &f.Options
	return f.tls || o.Cluster || o.Database != 0 || f.deadline != outage.DefaultDeadline || cmp.Or(f.ca, f.cert, f.key, o.SentinelMaster, o.Username, o.PasswordFile, o.SentinelUsername, o.SentinelPasswordFile, o.Prefix) != ""
}

// complete returns nil where no Redis is named.
func (f *redisFlags) complete() (*redis.Options, error) {
	if len(f.Addresses) == 0 {
		return nil, nil //nolint:nilnil // No Redis is not an error.
	}
	if f.tls {
		f.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if f.cert != "" {
		if _, err := f.certificate(nil); err != nil {
			return nil, err
		}
		f.TLS.GetClientCertificate = f.certificate
	}
	if f.ca != "" {
		content, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("reading --redis-ca: %w", err)
		}
		f.TLS.RootCAs = x509.NewCertPool()
		if !f.TLS.RootCAs.AppendCertsFromPEM(content) {
			return nil, fmt.Errorf("reading --redis-ca: %s holds no certificate in PEM", f.ca)
		}
	}
	return &f.Options, nil
}

// certificate reads what Redis asks for.
func (f *redisFlags) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("reading --redis-cert and --redis-key: %w", err)
	}
	return &pair, nil
}
