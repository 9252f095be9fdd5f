package servers

import (
	"slices"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/tierkeeper/tierkeeper/test/bench/calls"
	"github.com/tierkeeper/tierkeeper/test/bench/load"
)

// A Variant is a program, how it is started and what it is asked. In Command and Env stand places to be filled: {self}, {tierkeeper}
// and {peer} are programs; {address} and {metrics} free addresses of loopback, {port} and {metrics-port} their ports, {other-port} one
// more, {pprof} its address; {redis} the address of a Redis of its own, {dir} a directory of its own, {manifests} one of manifests and {lease-key} a file.
type Variant struct {
	Name        string
	About       string
	Command     []string
	Env         []string
	Redis       bool
	Concurrency bool // subjects have a concurrency limit besides
	Counts      bool // it has limits
	Metrics     bool // it tells its metrics at {metrics}

	Ask  func(k Kind, i, limits int) *rlsv3.RateLimitRequest
	Read func(*load.Answer) (load.Outcome, *load.Call)
}

// Names of the variants that others are compared with.
const (
	Floor        = "floor"
	FloorReserve = "floor-reserve"
	Peer         = "er"
	Memory       = "memory"
	Redis        = "redis"
)

// Variants are what is measured side by side.
var Variants = []Variant{
	{
		Name: Floor, About: "grpc-go that answers OK at once to a request of one entry",
		Command: floor, Ask: plain, Read: calls.Read,
	},
	{
		Name: FloorReserve, About: "the same, to the reserve that Tierkeeper gets",
		Command: floor, Ask: reserve, Read: calls.Read,
	},
	{
		Name: Peer, About: "envoyproxy/ratelimit as it comes, without statistics",
		Command: []string{"{peer}"}, Env: peer, Redis: true, Counts: true, Ask: descriptors, Read: calls.Read,
	},
	{
		Name: "er-cache", About: "the same with a local cache of 64 MiB of what is over its limit",
		Command: []string{"{peer}"}, Env: append([]string{"LOCAL_CACHE_SIZE_IN_BYTES=67108864"}, peer...), Redis: true, Counts: true,
		Ask: descriptors, Read: calls.Read,
	},
	{
		Name: Memory, About: "tierkeeper ratelimit with counters in memory, a reserve for each request",
		Command: ours, Counts: true, Metrics: true, Ask: reserve, Read: calls.Read,
	},
	{
		Name: "memory-settle", About: "the same with a concurrency limit besides, and a settle after each reserve",
		Command: ours, Counts: true, Metrics: true, Concurrency: true, Ask: reserve, Read: calls.ReadAndSettle,
	},
	{
		Name: Redis, About: "tierkeeper ratelimit with counters in Redis, a reserve for each request",
		Command: oursOverRedis, Redis: true, Counts: true, Metrics: true, Ask: reserve, Read: calls.Read,
	},
	{
		Name: "redis-settle", About: "the same with a concurrency limit besides, and a settle after each reserve",
		Command: oursOverRedis, Redis: true, Counts: true, Metrics: true, Concurrency: true, Ask: reserve, Read: calls.ReadAndSettle,
	},
}

var (
	floor = []string{"{self}", "floor", "--address", "{address}"}

	ours = []string{
		"{tierkeeper}", "ratelimit", "--address", "{address}", "--metrics-address", "{metrics}", "--admin-address", "none",
		"--manifests", "{manifests}", "--data-dir", "{dir}/data", "--log-level", "error",
	}

	oursOverRedis = append(slices.Clip(ours), "--redis", "{redis}", "--lease-key-file", "{lease-key}")

	peer = []string{
		"DISABLE_STATS=true", "LOG_LEVEL=WARN", "REDIS_SOCKET_TYPE=tcp", "REDIS_TYPE=SINGLE", "REDIS_URL={redis}",
		"GRPC_HOST=127.0.0.1", "GRPC_PORT={port}", "HOST=127.0.0.1", "PORT={metrics-port}", "DEBUG_HOST=127.0.0.1", "DEBUG_PORT={other-port}",
		"RUNTIME_ROOT={dir}", "RUNTIME_SUBDIRECTORY=ratelimit", "RUNTIME_WATCH_ROOT=false",
	}
)

func plain(k Kind, i, _ int) *rlsv3.RateLimitRequest {
	return calls.Descriptors(k.Name, calls.APIKey(k.Name, i), 1)
}

func reserve(k Kind, i, _ int) *rlsv3.RateLimitRequest {
	return calls.Reserve(calls.APIKey(k.Name, i), i)
}

func descriptors(k Kind, i, limits int) *rlsv3.RateLimitRequest {
	return calls.Descriptors(k.Name, calls.APIKey(k.Name, i), limits)
}
