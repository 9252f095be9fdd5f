package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tierkeeper/tierkeeper/policy"
)

// Envoy's own default for clients ends at TLS 1.2.
func tlsVersions() *tlsv3.TlsParameters {
	return &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
	}
}

// downstreamTLS identifies a listener by its certificates, those that are there; false if none is.
func downstreamTLS(l policy.Listener, v *vault) (*corev3.TransportSocket, bool) {
	var certificates []*tlsv3.SdsSecretConfig
	for _, name := range l.Certificates {
		if c, ok := v.certificate(name); ok {
			certificates = append(certificates, c)
		}
	}
	return transportSocket(&tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsParams: tlsVersions(), AlpnProtocols: []string{"h2", "http/1.1"}, TlsCertificateSdsSecretConfigs: certificates,
	}}), len(certificates) > 0
}

// upstreamTLS demands that the backend proves its name, which Envoy does not do by itself; false if the authorities are not
// there.
func upstreamTLS(t *policy.BackendTLS, v *vault) (*corev3.TransportSocket, bool) {
	authorities, ok := v.authorities(t)
	if !ok {
		return nil, false
	}
	return transportSocket(&tlsv3.UpstreamTlsContext{
		Sni: t.ServerName,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams: tlsVersions(),
			ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
				CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
					DefaultValidationContext: &tlsv3.CertificateValidationContext{
						MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
							SanType: tlsv3.SubjectAltNameMatcher_DNS,
							Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: t.ServerName}},
						}},
					},
					ValidationContextSdsSecretConfig: authorities,
				},
			},
		},
	}), true
}

func transportSocket(context proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(context)},
	}
}
