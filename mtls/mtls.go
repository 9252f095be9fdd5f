// Package mtls decides whom this project's servers and clients believe: who proves by a certificate who it is, over TLS 1.3
// and in both directions, or who is on the same machine. Certificates come from files, and are renewed by renewing those.
package mtls

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Files names the files, in PEM, of one end of a connection. The zero value is no TLS.
type Files struct {
	Cert string // this end's certificate, and those of the authorities between it and the other end's CA; --cert
	Key  string // its private key; --key
	CA   string // the authorities from which the other end's certificate may come; --ca
}

// Given says whether there is to be TLS.
func (f Files) Given() bool { return f != Files{} }

// Check finds files that are missing or hold something else. An error names the flag, and quotes nothing of the files.
func (f Files) Check() error {
	if err := f.Complete(); err != nil || !f.Given() {
		return err
	}
	_, err := f.read()
	return err
}

// Complete finds that some files are named and others are not, without looking for any of them.
func (f Files) Complete() error {
	if !f.Given() {
		return nil
	}
	for _, file := range []struct{ flag, path string }{{"--cert", f.Cert}, {"--key", f.Key}, {"--ca", f.CA}} {
		if file.path == "" {
			return fmt.Errorf("%s is missing: --cert, --key and --ca go together; give all three, or none to stay on this machine", file.flag)
		}
	}
	return nil
}

// CheckAddress says whether a server may listen at, or a client call, an address ("host:port"): without certificates only one
// of loopback, because what goes there is secret.
func (f Files) CheckAddress(address string) error {
	if f.Given() || IsLoopback(address) {
		return nil
	}
	return fmt.Errorf("%s is not on loopback, and what goes there carries keys: give certificates with --cert, --key and --ca, or an address of this machine such as 127.0.0.1", address)
}

// IsLoopback reports whether an address, with or without a port, is one that only this machine can reach.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}

// ServerCredentials demand a certificate from each client, which must come from the CA. The files are looked at before each
// handshake, and read again if one is another file, or has another size or time. Where they do not fit together the last good
// ones stay in use and log tells, once for each reason; connections that are open go on. Without Files there is no TLS. They are
// safe for concurrent use.
func (f Files) ServerCredentials(log *slog.Logger) (credentials.TransportCredentials, error) {
	return f.credentials("", log)
}

// ClientCredentials show the certificate and demand that the server's comes from the CA and is for serverName; empty: for the
// host that is dialled. The files are read as those of a server are.
func (f Files) ClientCredentials(serverName string, log *slog.Logger) (credentials.TransportCredentials, error) {
	return f.credentials(serverName, log)
}

func (f Files) credentials(serverName string, log *slog.Logger) (credentials.TransportCredentials, error) {
	if !f.Given() {
		return insecure.NewCredentials(), nil
	}
	if err := f.Check(); err != nil {
		return nil, err
	}
	source, err := newSource(f, log)
	if err != nil {
		return nil, err
	}
	return &renewing{source: source, serverName: serverName}, nil
}

// renewing makes each handshake with the certificates of that moment. Package credentials has no such thing for a client's CA.
type renewing struct {
	source     *source
	serverName string
}

// ClientHandshake implements credentials.TransportCredentials.
func (r *renewing) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if r.serverName != "" {
		authority = r.serverName
	}
	now := r.source.now()
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{now.pair}, RootCAs: now.pool,
	}).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake implements credentials.TransportCredentials.
func (r *renewing) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	now := r.source.now()
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{now.pair}, ClientCAs: now.pool, ClientAuth: tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true, // Who resumes a session is not asked for a certificate of the CA of today.
	}).ServerHandshake(conn)
}

// Info implements credentials.TransportCredentials.
func (r *renewing) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls", SecurityVersion: "1.3", ServerName: r.serverName} //nolint:staticcheck // gRPC still reads it for :authority.
}

// Clone implements credentials.TransportCredentials.
func (r *renewing) Clone() credentials.TransportCredentials {
	return &renewing{source: r.source, serverName: r.serverName}
}

// OverrideServerName implements credentials.TransportCredentials.
func (r *renewing) OverrideServerName(string) error {
	return errors.New("the server's name is given to ClientCredentials")
}
