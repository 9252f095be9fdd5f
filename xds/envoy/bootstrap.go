package envoy

import (
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tierkeeper/tierkeeper/policy"
)

const xdsCluster = "tierkeeper-xds"

// maxProgram is more than the longest path and path prefix that the API allows, as regular expressions.
const maxProgram = 10_000

// The pauses before an Envoy looks for a server of configuration again, each of random length up to a bound that grows. Envoy's own
// go up to 30 seconds: an operator that was away would have said meanwhile that no Envoys are there.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Bootstrap is the file that an Envoy of the gateway's fleet starts from: who it is, and where it is told the rest. The admin
// interface is a socket in Envoy's working directory, for its owner alone: at a port of loopback, whoever can name a backend
// could reach it.
//
// Envoys speak delta xDS: by the state of the world, one rejected resource makes client and server loop.
func Bootstrap(gateway policy.Name, node string, s Servers) *bootstrapv3.Bootstrap {
	return &bootstrapv3.Bootstrap{
		Node:  &corev3.Node{Id: node, Cluster: gateway.String()},
		Admin: &bootstrapv3.Admin{Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "admin.sock", Mode: 0o600}}}},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			LdsConfig: overADS(),
			CdsConfig: overADS(),
			AdsConfig: &corev3.ApiConfigSource{
				ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
				TransportApiVersion:       corev3.ApiVersion_V3,
				SetNodeOnFirstMessageOnly: true,
				GrpcServices:              []*corev3.GrpcService{xdsService()},
			},
		},
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "tierkeeper",
			LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{Fields: map[string]*structpb.Value{
				// Envoy's default of 100 refuses a path of 60 characters, and with it all routes of its gateway.
				"re2.max_program_size.error_level": structpb.NewNumberValue(maxProgram),
			}}},
		}}},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Clusters: []*clusterv3.Cluster{xdsServers(s), serviceCluster(s)},
		},
	}
}

func xdsService() *corev3.GrpcService {
	s := grpcService(xdsCluster)
	s.GetEnvoyGrpc().RetryPolicy = &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
		BaseInterval: durationpb.New(firstPause), MaxInterval: durationpb.New(lastPause),
	}}
	return s
}

func grpcService(cluster string) *corev3.GrpcService {
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
		EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster},
	}}
}
