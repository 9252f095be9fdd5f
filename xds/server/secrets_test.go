package server_test

import (
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
	"github.com/tierkeeper/tierkeeper/xds/server"
)

const (
	credentialName  = "credential/edge/provider/token" //nolint:gosec // A name.
	certificateName = "certificate/edge/site"
)

var allSecrets = []string{"authorities", certificateName, credentialName}

// secured are resources of a gateway with a certificate, a backend over TLS, and a key at it.
func secured(t *testing.T, key string) *envoy.Resources {
	t.Helper()
	r, err := envoy.Build(&policy.Gateway{
		Name: one, Listeners: []policy.Listener{{Name: "https", Port: 8443, Certificates: []policy.Name{{Namespace: "edge", Name: "site"}}}},
		Backends: []policy.Backend{{
			Name: "a", Endpoints: []policy.Endpoint{{Address: "10.0.0.7", Port: 443}}, ConnectTimeout: time.Second, IdleTimeout: time.Minute,
			TLS: &policy.BackendTLS{ServerName: "api.example.com"},
			Credential: &policy.BackendCredential{
				Header: "authorization", Secret: policy.SecretValue{Secret: policy.Name{Namespace: "edge", Name: "provider"}, Key: "token"},
			},
		}},
		Routes:  []policy.Route{{Name: "r", Path: "/", Backend: "a", Resource: "chat"}},
		Sources: []policy.KeySource{{Header: "x-api-key"}}, MaxBodyBytes: 1024,
	}, envoy.Settings{
		SystemRoots: []byte("roots"),
		Secrets: func(v policy.SecretValue) []byte {
			if v.Purpose == policy.ForCredential {
				return []byte(key)
			}
			return []byte(v.Key)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// watching is an Envoy that has everything.
func watching(t *testing.T, c *control) *envoyClient {
	t.Helper()
	e := c.connect(t, one.String())
	e.begin(t, one.String())
	e.subscribe(t, secrets, allSecrets...)
	compare(t, "secrets at the start", update{Kind: secrets, Changed: allSecrets}, e.next(t))
	return e
}

func TestASecretThatChangesIsSentAlone(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, secured(t, "sk-1"))
	e := watching(t, c)
	publish(t, c, one, secured(t, "sk-2"))
	r := e.receive(t)
	e.accept(t, r)
	compare(t, "update", update{Kind: secrets, Changed: []string{credentialName}}, updateOf(r))
	var secret tlsv3.Secret
	if err := r.GetResources()[0].GetResource().UnmarshalTo(&secret); err != nil {
		t.Fatal(err)
	}
	compare(t, "key", "sk-2", secret.GetGenericSecret().GetSecret().GetInlineString())
	compare(t, "updates beside it", nil, e.pending(t))
}

// Envoy's words about a Secret can quote it.
func TestASecretThatEnvoyRejectsIsReportedWithoutItsWords(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, secured(t, "sk-1"))
	e := watching(t, c)
	for range 4 {
		c.report(t)
	}
	publish(t, c, one, secured(t, "sk-2"))
	e.reject(t, e.receive(t), `Proto constraint validation failed: generic_secret { secret { inline_string: "sk-2" } }`)
	if r := c.report(t); r.Kind != "Secret" || r.Err == "" || strings.Contains(r.Err, "sk-2") {
		t.Errorf("report %+v, want the rejection of a Secret, without what is in it", r)
	}
	await(t, c, one, []server.Envoy{{Node: "envoy-of-edge/one", Rejected: "Secret: " + credentialName + ": Envoy rejects it; " +
		"its words could quote the Secret and are left out here: see Envoy's own log"}})
	compare(t, "answers to the rejection", nil, e.pending(t))
}

// The names of secrets tell whose they are, and that helps nobody.
func TestAnEnvoyIsNotGivenTheSecretsOfAnotherFleet(t *testing.T) {
	t.Parallel()
	c := start(t)
	publish(t, c, one, secured(t, "sk-1"))
	publish(t, c, other, resources(t, other, "/2"))
	e := c.connect(t, other.String())
	e.subscribe(t, secrets, allSecrets...)
	for _, u := range e.pending(t) {
		if len(u.Changed) > 0 {
			t.Errorf("got %+v, want no secret", u)
		}
	}
}
