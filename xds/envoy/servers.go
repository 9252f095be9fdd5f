package envoy

import (
	"net/netip"
	"path"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tierkeeper/tierkeeper/policy"
)

// Servers says where an Envoy finds this project's servers. Each address that a name of DNS has is a replica.
type Servers struct {
	XDS, Service policy.Endpoint
	TLS          *ServersTLS // nil: without TLS, as servers on Envoy's own machine are reached
}

// ServersTLS says by what Envoy and this project's servers believe each other. Its paths are absolute, as they are where Envoy
// runs.
type ServersTLS struct {
	Cert, Key string // Envoy's certificate and its private key, in PEM, in one directory
	CA        string // the authorities that the servers' certificates may come from, in PEM
	// Directory holds the files that SecretFiles makes. Envoy takes certificates that are renewed under it only where such a file
	// names them, and not where its bootstrap does.
	Directory string
	// XDSName and ServiceName are what the servers' certificates must be for, a name of DNS or an address; empty: the address
	// that is called.
	XDSName, ServiceName string
}

// The names of the secrets that are told by files.
const (
	certificateSecret = "tierkeeper-certificate"
	authoritiesSecret = "tierkeeper-authorities" //nolint:gosec // A name.
)

// secretFile is the name of the file that tells a secret. Envoy takes one of each.
func secretFile(secret string) string { return secret + ".yaml" }

// SecretFiles are what Directory must hold, by file name. They name the files with the certificates, whose directories Envoy
// watches for what is moved there: a mounted Secret changes by the move of a link.
func (t *ServersTLS) SecretFiles() map[string]*discoveryv3.DiscoveryResponse {
	all := map[string]*discoveryv3.DiscoveryResponse{}
	for _, secret := range []*tlsv3.Secret{
		{Name: certificateSecret, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inFile(t.Cert), PrivateKey: inFile(t.Key), WatchedDirectory: directoryOf(t.Cert),
		}}},
		{Name: authoritiesSecret, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: inFile(t.CA), WatchedDirectory: directoryOf(t.CA),
		}}},
	} {
		all[secretFile(secret.GetName())] = &discoveryv3.DiscoveryResponse{Resources: []*anypb.Any{packed(secret)}}
	}
	return all
}

func inFile(name string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: name}}
}

func directoryOf(file string) *corev3.WatchedDirectory {
	return &corev3.WatchedDirectory{Path: path.Dir(file)}
}

// socket shows Envoy's certificate to a server, and demands that the server's is for the name.
func (t *ServersTLS) socket(name string, at policy.Endpoint) *corev3.TransportSocket {
	if name == "" {
		name = at.Address
	}
	sni, kind := name, tlsv3.SubjectAltNameMatcher_DNS
	if _, err := netip.ParseAddr(name); err == nil {
		sni, kind = "", tlsv3.SubjectAltNameMatcher_IP_ADDRESS
	}
	return transportSocket(&tlsv3.UpstreamTlsContext{
		Sni: sni,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams: &tlsv3.TlsParameters{
				TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			},
			AlpnProtocols:                  []string{"h2"},
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{t.secret(certificateSecret)},
			ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
				CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
					DefaultValidationContext: &tlsv3.CertificateValidationContext{
						MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
							SanType: kind, Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}},
						}},
					},
					ValidationContextSdsSecretConfig: t.secret(authoritiesSecret),
				},
			},
		},
	})
}

func (t *ServersTLS) secret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ResourceApiVersion: corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{
			Path: path.Join(t.Directory, secretFile(name)),
		}},
	}}
}
