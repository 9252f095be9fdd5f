package redis

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/redis/rueidis"

	"github.com/tierkeeper/tierkeeper/internal/sock"
)

// Options say where the store is, and who may use it.
type Options struct {
	// Addresses are each HOST:PORT: of one Redis, of some nodes of a Redis Cluster, or of the sentinels.
	Addresses []string
	// SentinelMaster is the name by which sentinels know the Redis; empty where there are none.
	SentinelMaster string
	// Cluster makes New fail unless the addresses are of a Redis Cluster. That one is used as such needs no saying.
	Cluster bool
	// Database is 0 in a cluster.
	Database int
	// Username and PasswordFile are those of an ACL user; without a user, of the default one. The file is read for each new
	// connection, and a newline at its end is not part of the password. Empty: no password.
	Username, PasswordFile string
	// SentinelUsername and SentinelPasswordFile are the same for the sentinels.
	SentinelUsername, SentinelPasswordFile string
	// TLS is nil for connections in the clear.
	TLS *tls.Config
	// Prefix begins all keys and the name of the channel; empty: "tk". It keeps installations apart that share a Redis.
	Prefix string
	// Log must not be nil.
	Log *slog.Logger
}

const defaultPrefix = "tk"

// String says where the store is, for people.
func (o *Options) String() string {
	return fmt.Sprintf("%s, prefix %s", strings.Join(o.Addresses, ", "), cmp.Or(o.Prefix, defaultPrefix))
}

// New connects, and checks that the store can be used. It fails if none of the addresses can be reached: a store that is lost
// later comes back by itself.
func New(ctx context.Context, o Options) (*Store, error) {
	if len(o.Addresses) == 0 {
		return nil, errors.New("the address of Redis is missing")
	}
	o.Prefix = cmp.Or(o.Prefix, defaultPrefix)
	if strings.ContainsAny(o.Prefix, "{}") {
		return nil, fmt.Errorf("the prefix %q of keys must not have braces: they mark what has one place in a cluster", o.Prefix)
	}
	client, err := rueidis.NewClient(o.client())
	if err != nil {
		return nil, fmt.Errorf("connecting to Redis at %s: %w", strings.Join(o.Addresses, ", "), o.advise(err))
	}
	s := &Store{client: client, ctx: context.WithoutCancel(ctx), script: counters, spread: client.Mode() == rueidis.ClientModeCluster, prefix: o.Prefix, log: o.Log}
	s.pipeline.Store(new(pipeline))
	if err := s.check(ctx, o.Cluster); err != nil {
		client.Close()
		return nil, fmt.Errorf("checking Redis at %s: %w", strings.Join(o.Addresses, ", "), err)
	}
	return s, nil
}

// advise says what to do about an error of a first connection that does not say so itself.
func (o *Options) advise(err error) error {
	text := err.Error()
	closed := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	var unproved *tls.CertificateVerificationError
	switch {
	case strings.HasPrefix(text, "NOAUTH"):
		return errors.New("it asks for a password: name the file that holds it")
	case strings.HasPrefix(text, "WRONGPASS"):
		return errors.New("it refuses the user or the password: check both, and the file that holds the password")
	case strings.HasPrefix(text, "unknown command 'SENTINEL'"):
		return errors.New("it is no sentinel: name the sentinels, or else no master")
	case strings.HasPrefix(text, "No such master"):
		return fmt.Errorf("the sentinels watch nothing that is called %q: name the master as they do", o.SentinelMaster)
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("it accepts a connection and does not answer: is it a Redis, and does it speak TLS, as it was or was not told to?")
	case strings.HasPrefix(text, "received unknown message type"):
		return fmt.Errorf("it is no Redis: %w", err)
	case errors.As(err, &unproved):
		return fmt.Errorf("its certificate proves nothing: check the authorities, and that the certificate is for the host by which Redis is named: %w", err)
	case o.TLS != nil && (closed || strings.Contains(text, "certificate required")):
		return fmt.Errorf("it closes the connection, as one does that asks for a certificate and gets none, or one that it does not believe: %w", err)
	case closed:
		return fmt.Errorf("it closes the connection, as one does that speaks nothing but TLS: %w", err)
	default:
		return err
	}
}

// client has all calls pipelined, also those that come alone: so it is seen at once when a connection is closed, and not by the
// next request.
func (o *Options) client() rueidis.ClientOption {
	dialer := net.Dialer{Timeout: patience}
	c := rueidis.ClientOption{
		InitAddress: o.Addresses, TLSConfig: o.TLS, SelectDB: o.Database, ClientName: "tierkeeper", Dialer: dialer,
		DisableCache: true, AlwaysPipelining: true, ClientSetInfo: rueidis.DisableClientSetInfo, ConnWriteTimeout: patience,
		ClusterOption: rueidis.ClusterOption{MaxMovedRedirections: 8},
		Sentinel: rueidis.SentinelOption{
			MasterSet: o.SentinelMaster, TLSConfig: o.TLS, ClientName: "tierkeeper", Dialer: dialer, TopologyRefreshInterval: patience,
		},
	}
	sentinels := &addresses{}
	c.Sentinel.Dialer.Resolver = &sentinels.mark
	c.DialCtxFn = sentinels.dial
	c.AuthCredentialsFn = func(to rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
		username, file := o.Username, o.PasswordFile
		if sentinels.have(to.Address) {
			username, file = o.SentinelUsername, o.SentinelPasswordFile
		}
		password, err := readPassword(file)
		return rueidis.AuthCredentials{Username: username, Password: password}, err
	}
	return c
}

// addresses are those that sentinels were connected to at. The client asks for the credentials of an address without saying what
// is there; but it dials sentinels with a dialer of their own, which has a mark.
type addresses struct {
	mark  net.Resolver
	known sync.Map
}

func (a *addresses) have(address net.Addr) bool {
	_, yes := a.known.Load(address.String())
	return yes
}

func (a *addresses) dial(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn = sock.New(conn)
	if config != nil {
		if conn, err = shakeHands(ctx, conn, address, config); err != nil {
			return nil, err
		}
	}
	if dialer.Resolver == &a.mark {
		a.known.Store(conn.RemoteAddr().String(), true)
	}
	return conn, nil
}

// shakeHands speaks TLS from now on, with whom the address names unless the config names another. If it fails, conn is closed.
func shakeHands(ctx context.Context, conn net.Conn, address string, config *tls.Config) (net.Conn, error) {
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		config = config.Clone()
		config.ServerName = host
	}
	secure := tls.Client(conn, config)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

func readPassword(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	content, err := os.ReadFile(file) //nolint:gosec // The operator names it.
	if err != nil {
		return "", fmt.Errorf("reading the password of Redis: %w", err)
	}
	return strings.TrimRight(string(content), "\r\n"), nil
}

// oldest is the first release that has all commands of the scripts.
var oldest = [...]int{6, 2}

// check looks at each node.
func (s *Store) check(ctx context.Context, cluster bool) error {
	if cluster && !s.spread {
		return errors.New("it is not a cluster")
	}
	var gone []error
	nodes := s.client.Nodes()
	for address, node := range nodes {
		info, err := node.Do(ctx, node.B().Info().Build()).ToString()
		if err != nil { // a cluster lives without some of its nodes
			gone = append(gone, fmt.Errorf("%s: %w", address, err))
			continue
		}
		if field(info, "redis_mode") == "sentinel" {
			return errors.New("it is a sentinel: name the master that it watches")
		}
		if v := field(info, "redis_version"); older(v) {
			return fmt.Errorf("its version is %q, and %d.%d or newer is needed", v, oldest[0], oldest[1])
		}
		if p := field(info, "maxmemory_policy"); p != "" && p != "noeviction" && field(info, "maxmemory") != "0" {
			s.log.WarnContext(ctx, "Redis may evict counters when its memory is full, and evicted counters start at 0 again: set maxmemory-policy to noeviction",
				"node", address, "maxmemory_policy", p)
		}
		if err := s.checkRights(ctx, node); err != nil {
			return err
		}
	}
	if len(gone) == len(nodes) {
		return errors.Join(gone...)
	}
	return s.checkLayout(ctx)
}

// checkRights runs the script with no counters, so that a user who may not is not found by the first request.
func (s *Store) checkRights(ctx context.Context, node rueidis.Client) error {
	nothing := rueidis.BinaryString(header{mode: look}.request(new(group), nil))
	err := s.script.Exec(ctx, node, nil, []string{nothing}).Error()
	if err != nil && strings.HasPrefix(err.Error(), "NOPERM") { // A replica that lost its master may run none either.
		return fmt.Errorf("its user may not run scripts, and needs the rights that docs/redis.md names: %w", err)
	}
	return nil
}

// checkLayout refuses to count beside a release that counts in other keys: each would admit what the other has.
func (s *Store) checkLayout(ctx context.Context) error {
	key := s.prefix + ":layout"
	b := s.client.B()
	if err := s.client.Do(ctx, b.Set().Key(key).Value(layout).Nx().Build()).Error(); err != nil && !rueidis.IsRedisNil(err) {
		return err
	}
	got, err := s.client.Do(ctx, b.Get().Key(key).Build()).ToString()
	if err != nil && strings.HasPrefix(err.Error(), "WRONGTYPE") {
		return fmt.Errorf("the key %s, which would name the layout, is somebody else's: choose another prefix", key)
	}
	if err != nil {
		return fmt.Errorf("reading the key %s, which names the layout: %w", key, err)
	}
	if got != layout {
		return fmt.Errorf("the key %s says that counters have layout %q, and this release knows %s: run the release that wrote it, or another prefix", key, got, layout)
	}
	return nil
}

// field is what INFO says of a name.
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func older(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	return err != nil || err2 != nil || a < oldest[0] || a == oldest[0] && b < oldest[1]
}
