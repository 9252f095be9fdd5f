package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/command"
	"github.com/tierkeeper/tierkeeper/counter/memory"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// kindVariable makes the test binary serve instead of testing.
const kindVariable = "TIERKEEPER_BENCH_SERVER"

// The servers.
const (
	kindFloor    = "floor"    // grpc-go as it comes, and nothing to decide
	kindService  = "service"  // what "tierkeeper standalone" puts before its limiter
	kindFollower = "follower" // "tierkeeper ratelimit --operator", whole; see obey
)

// keys is how many API keys send.
const keys = 10_000

// serve is the life of a server process: it writes its address, and for each line it reads how many allocations it has made.
// It ends with its input.
func serve(kind string, in io.Reader, out, complaints io.Writer) int {
	if kind == kindFollower {
		return obey(in, out, complaints)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(complaints, err)
		return 1
	}
	server := newServer(kind)
	go func() {
		if err := server.Serve(listener); err != nil {
			fmt.Fprintln(complaints, err)
		}
	}()
	fmt.Fprintln(out, listener.Addr())
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Fprintln(out, m.Mallocs)
	}
	server.Stop()
	return 0
}

func newServer(kind string) *grpc.Server {
	if kind == kindFloor {
		server := grpc.NewServer()
		rlsv3.RegisterRateLimitServiceServer(server, yes{})
		return server
	}
	go command.CollectGarbage(context.Background()) //nolint:forbidigo // As a main function: it ends with the process.
	server := grpc.NewServer(ratelimit.ServerOptions()...)
	limiter := ratelimit.New(memory.New(), []byte("a secret of benchmarks"))
	limiter.SetTable(policies())
	ratelimit.Register(server, limiter, slog.New(slog.DiscardHandler))
	return server
}

// yes is the floor: it says OK to everything.
type yes struct {
	rlsv3.UnimplementedRateLimitServiceServer
}

func (yes) ShouldRateLimit(context.Context, *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	return &rlsv3.RateLimitResponse{
		OverallCode: rlsv3.RateLimitResponse_OK,
		Statuses:    []*rlsv3.RateLimitResponse_DescriptorStatus{{Code: rlsv3.RateLimitResponse_OK}},
	}, nil
}

// policies gives each key four rates and a concurrency limit of its own, and all of them two rates of the model. Nothing is
// ever full.
func policies() *policy.Table {
	own := v1alpha1.Limits{
		Rates: []v1alpha1.Rate{
			rate(v1alpha1.MetricRequests, v1alpha1.PerMinute), rate(v1alpha1.MetricTokens, v1alpha1.PerMinute),
			rate(v1alpha1.MetricRequests, v1alpha1.PerDay), rate(v1alpha1.MetricTokens, v1alpha1.PerDay),
		},
		Concurrency: &v1alpha1.Concurrency{Max: new(int32(1_000_000))},
	}
	shared := v1alpha1.Limits{Rates: []v1alpha1.Rate{
		rate(v1alpha1.MetricRequests, v1alpha1.PerMinute), rate(v1alpha1.MetricTokens, v1alpha1.PerMinute),
	}}
	in := policy.Input{
		Tiers: []*v1alpha1.RateLimitTier{{
			ObjectMeta: metav1.ObjectMeta{Name: "plan"}, Spec: v1alpha1.RateLimitTierSpec{KeyLimits: v1alpha1.KeyLimits{Limits: &own}},
		}},
		Models: []*v1alpha1.ModelLimit{{
			ObjectMeta: metav1.ObjectMeta{Name: "large"}, Spec: v1alpha1.ModelLimitSpec{Models: []string{model}, Shared: &shared},
		}},
		Gateways: []*v1alpha1.QuotaGateway{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "edge"},
			Spec: v1alpha1.QuotaGatewaySpec{
				Identity: v1alpha1.Identity{Sources: []v1alpha1.KeySource{{Header: "authorization", Prefix: "Bearer "}, {Header: "x-api-key"}}},
				Headers: &v1alpha1.ResponseHeaders{Dialects: []v1alpha1.Dialect{
					{
						Type:      v1alpha1.DialectPerMetric,
						PerMetric: &v1alpha1.PerMetricHeaders{RequestsReset: v1alpha1.ResetDuration, TokensReset: v1alpha1.ResetDuration},
					},
					{Type: v1alpha1.DialectPerResource},
				}},
			},
		}},
	}
	for i := range keys {
		in.Quotas = append(in.Quotas, &v1alpha1.ApiKeyQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: fmt.Sprintf("holder-%d", i)},
			Spec: v1alpha1.ApiKeyQuotaSpec{
				TierRef: v1alpha1.Ref{Name: "plan"},
				Keys:    []v1alpha1.APIKey{{Name: "main", Digest: policy.HashKey([]byte(apiKey(i))).String()}},
			},
		})
	}
	table, _ := policy.Compile(in)
	return table
}

func rate(metric v1alpha1.Metric, per v1alpha1.Per) v1alpha1.Rate {
	return v1alpha1.Rate{Metric: metric, Per: per, Max: new(int64(1 << 50))}
}
