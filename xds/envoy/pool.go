package envoy

import (
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tierkeeper/tierkeeper/policy"
)

const (
	loadBalancer = "envoy.lb" // the namespace in which load balancing looks for what a request asks for
	poolLabel    = "pool"
	commonPool   = "*" // of endpoints without a pool: no name of one
)

// pools lets requests with a pool go to its endpoints only, and all others to those without one; nil where no endpoint has
// one. A pool that the backend does not have is as good as none.
func pools(all []policy.Endpoint) *clusterv3.Cluster_LbSubsetConfig {
	if !slices.ContainsFunc(all, hasPool) {
		return nil
	}
	return &clusterv3.Cluster_LbSubsetConfig{
		FallbackPolicy:  clusterv3.Cluster_LbSubsetConfig_DEFAULT_SUBSET,
		DefaultSubset:   label(commonPool),
		SubsetSelectors: []*clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector{{Keys: []string{poolLabel}}},
	}
}

func hasPool(e policy.Endpoint) bool { return e.Pool != "" }

// labels says of an endpoint whose requests it serves.
func labels(e policy.Endpoint) *corev3.Metadata {
	pool := e.Pool
	if pool == "" {
		pool = commonPool
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{loadBalancer: label(pool)}}
}

func label(pool string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{poolLabel: structpb.NewStringValue(pool)}}
}
