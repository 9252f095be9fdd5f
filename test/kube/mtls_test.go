package kube_test

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/internal/testca"
	"github.com/tierkeeper/tierkeeper/mtls"
)

// TestCertificates runs everything by certificates, as in a cluster, and asks without one.
func TestCertificates(t *testing.T) {
	t.Parallel()
	ca := testca.New(t, "cluster")
	files := mount(t, ca)
	s := newStackWith(t, files)
	operator, service := startOperator(t, s, "operator-0"), startService(t, s, "ratelimit-0")
	port, _ := startMain(t, s, service, plan("spent", "{metric: Requests, per: Month, max: 3}"), holder("spent", "key-spent"))
	for range 3 {
		awaitStatus(t, port, "key-spent", http.StatusOK)
	}
	answers(t, port, "key-spent", http.StatusTooManyRequests)

	own, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []string{operator.Address, service.Address} {
		if err := hear(t, server, ca, own); err != nil {
			t.Errorf("%s does not answer who has a certificate: %v", server, err)
		}
		if err := hear(t, server, ca); err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("%s says %v to who has no certificate, want that one is required", server, err)
		}
	}

	s.TLS = mtls.Files{}
	if _, err := s.StartOperator(t.Context(), "operator-everywhere", "--address", "0.0.0.0:0"); err == nil {
		t.Error("an operator without certificates serves other machines")
	}
	expectLog(t, s, "operator-everywhere", "(--address): 0.0.0.0:0 is not on loopback")
	startOperator(t, s, "operator-alone")
	expectLog(t, s, "operator-alone", "without --cert, --key and --ca configuration is served on this machine only")
}

// mount is a certificate for this machine, as a pod finds it.
func mount(t *testing.T, ca *testca.CA) mtls.Files {
	t.Helper()
	m := testca.NewMount(t, ca.PEM, ca.Issue(t, "127.0.0.1"))
	return mtls.Files{Cert: m.Cert(), Key: m.Key(), CA: m.CA()}
}

// hear connects to a server of gRPC, and waits for its first word.
func hear(t *testing.T, address string, ca *testca.CA, own ...tls.Certificate) error {
	t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: ca.Pool(), Certificates: own, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13}}
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Read(make([]byte, 1))
	return err
}
