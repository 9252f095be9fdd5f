package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/standalone"
	"github.com/tierkeeper/tierkeeper/xds/feed"
)

// What a service that follows an operator is given in its environment.
const (
	operatorVariable  = "TIERKEEPER_BENCH_OPERATOR" // address
	directoryVariable = "TIERKEEPER_BENCH_DATA"
)

// obey is the life of a whole rate-limit service that an operator tells what holds. For each line that it reads it collects garbage, as
// Go does every two minutes in any case, and writes how many bytes are in use. It ends with its input.
func obey(in io.Reader, out, complaints io.Writer) int {
	ctx, stop := context.WithCancel(context.Background()) //nolint:forbidigo // It is a main function.
	defer stop()
	c := standalone.ServiceConfig{
		Common: standalone.Common{
			DataDir: os.Getenv(directoryVariable), MetricsAddress: standalone.NoMetrics, AdminAddress: standalone.NoAdmin,
			Out: io.Discard, Log: slog.New(slog.NewTextHandler(complaints, &slog.HandlerOptions{Level: slog.LevelError})),
		},
		Address: "127.0.0.1:0", Operator: os.Getenv(operatorVariable), Identity: strconv.Itoa(os.Getpid()),
	}
	ended := make(chan error, 1)
	go func() { ended <- standalone.RunService(ctx, c) }()
	fmt.Fprintln(out, c.Operator)
	for lines := bufio.NewScanner(in); lines.Scan(); {
		runtime.GC()
		runtime.GC() // what the first has let go of
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Fprintln(out, m.HeapAlloc)
	}
	stop()
	if err := <-ended; err != nil {
		fmt.Fprintln(complaints, err)
		return 1
	}
	return 0
}

// BenchmarkServiceMemory measures what each of 100,000 API keys takes in a rate-limit service that an operator tells of them (told), or
// that finds them in its file (restarted): in use (heap), of the process at rest (anon), and of it at most (peak). What of the file is in
// memory (file) the system can have back at any time.
func BenchmarkServiceMemory(b *testing.B) {
	if runtime.GOOS != "linux" {
		b.Skip("this benchmark reads the memory of its servers from /proc, which only Linux has")
	}
	o := startOperator(b)
	without, with := customers(0), customers(loaded)
	for mark := uint64(1); b.Loop(); mark += 2 {
		o.Publish(without, mark)
		empty := o.memory(b, b.TempDir(), mark)
		o.Publish(with, mark+1)
		dir := b.TempDir()
		for _, when := range []string{"told", "restarted"} {
			full := o.memory(b, dir, mark+1)
			report := func(what string, bytes int64) { b.ReportMetric(float64(bytes)/loaded, when+"-"+what+"-B/key") }
			report("heap", full.heap-empty.heap)
			report("anon", full.anon-empty.anon)
			report("file", full.file-empty.file)
			report("peak", full.peak-empty.peak)
		}
	}
	b.ReportMetric(0, "ns/op") // The time of a run means nothing.
}

// loaded is how many API keys a large platform has.
const loaded = 100_000

// customers are n quotas on one tier.
func customers(n int) *policy.Table {
	in := policy.Input{Tiers: []*v1alpha1.RateLimitTier{{
		ObjectMeta: metav1.ObjectMeta{Name: "plan"}, Spec: v1alpha1.RateLimitTierSpec{KeyLimits: v1alpha1.KeyLimits{Limits: &v1alpha1.Limits{
			Rates: []v1alpha1.Rate{rate(v1alpha1.MetricRequests, v1alpha1.PerMinute), rate(v1alpha1.MetricTokens, v1alpha1.PerDay)},
		}}},
	}}}
	for i := range n {
		q := v1alpha1.ApiKeyQuota{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("team-", i%100), Name: fmt.Sprint("quota-", i)}}
		q.Spec.TierRef.Name = "plan"
		q.Spec.Keys = []v1alpha1.APIKey{{Name: "main", Digest: policy.HashKey([]byte(apiKey(i))).String()}}
		in.Quotas = append(in.Quotas, &q)
	}
	table, _ := policy.Compile(in)
	return table
}

// An operator is a feed.Server behind real gRPC. It rings when something about its clients has changed.
type operator struct {
	*feed.Server
	changed chan struct{}
}

func startOperator(b *testing.B) *operator {
	b.Helper()
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Setenv(operatorVariable, l.Addr().String())
	changed := make(chan struct{}, 1)
	o := &operator{changed: changed, Server: feed.NewServer(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})}
	g := grpc.NewServer()
	o.Register(b.Context(), g)
	go func() { _ = g.Serve(l) }() // It ends with Stop.
	b.Cleanup(g.Stop)
	return o
}

// memory is what a service takes that has the directory and is told everything up to the mark, once it is at rest.
func (o *operator) memory(b *testing.B, dir string, mark uint64) footprint {
	b.Helper()
	b.Setenv(directoryVariable, dir)
	p := start(b, kindFollower)
	defer p.stop()
	node := strconv.Itoa(p.pid())
	for !slices.ContainsFunc(o.Clients(), func(c feed.Client) bool { return c.Node == node && c.Mark == mark }) {
		<-o.changed
	}
	return p.atRest(b)
}

// footprint is what a process takes, in bytes.
type footprint struct{ heap, anon, file, peak int64 }

func (p *process) footprint(tb testing.TB) (f footprint) {
	tb.Helper()
	fields := map[string]*int64{"RssAnon:": &f.anon, "RssFile:": &f.file, "VmHWM:": &f.peak}
	for line := range strings.Lines(read(tb, "/proc/"+strconv.Itoa(p.pid())+"/status")) {
		words := strings.Fields(line) // name, KiB, unit
		if field := fields[words[0]]; field != nil {
			kib, err := strconv.ParseInt(words[1], 10, 64)
			if err != nil {
				tb.Fatal(err)
			}
			*field = kib << 10
		}
	}
	return f
}

// atRest waits until a process takes no less any more: it may still write its file, and Go gives memory back bit by bit.
func (p *process) atRest(tb testing.TB) (f footprint) {
	tb.Helper()
	for still := 0; still < 5; still++ {
		<-time.After(time.Second)
		heap := p.figure(tb)
		now := p.footprint(tb)
		if now.anon < f.anon {
			still = 0
		}
		f = now
		f.heap = int64(heap) //nolint:gosec // It is not that much.
	}
	return f
}
