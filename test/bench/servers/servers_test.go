package servers_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/test/bench/calls"
	"github.com/tierkeeper/tierkeeper/test/bench/servers"
)

// What is measured must be what is meant: each subject has as many limits as are said, for ours as for a peer.
func TestEverySubjectHasAsManyLimits(t *testing.T) {
	t.Parallel()
	for _, limits := range []int{1, 4, servers.MostLimits} {
		setup := servers.Setup{Keys: 20, Limits: limits}
		file := filepath.Join(t.TempDir(), "all.yaml")
		if err := os.WriteFile(file, []byte(setup.Manifests(limits == 4, 8090)), 0o600); err != nil {
			t.Fatal(err)
		}
		var loader manifest.Loader
		found := loader.Load(file)
		if len(found.Problems) > 0 {
			t.Fatalf("%d limits: %v", limits, found.Problems)
		}
		table, verdicts := policy.Compile(found.Input)
		for _, v := range verdicts {
			if !v.Accepted() {
				t.Fatalf("%d limits: %v is not accepted: %v", limits, v.Object, v.Problems)
			}
		}
		gateway, _ := table.Gateway(calls.Gateway)
		for _, kind := range []servers.Kind{servers.Below, servers.Above, servers.Exact} {
			key, ok := table.Lookup(policy.HashKey([]byte(calls.APIKey(kind.Name, setup.Subjects(kind)-1))))
			if !ok {
				t.Fatalf("%d limits: the last key of %s is unknown", limits, kind.Name)
			}
			rates, slots := 0, 0
			for _, l := range table.Resolve(gateway, key.Holder, calls.Model, "chat").Limits {
				if l.Pair.Metric == policy.ConcurrentRequests {
					slots++
				} else {
					rates++
				}
			}
			if rates != limits || slots > 1 || (slots == 1) != (limits == 4) {
				t.Errorf("a key of %s has %d rates and %d limits of concurrency, want %d rates", kind.Name, rates, slots, limits)
			}
			if n := strings.Count(setup.PeerConfig(), "{key: "+kind.Name+"_"); n != limits {
				t.Errorf("a peer has %d limits of kind %s, want %d", n, kind.Name, limits)
			}
		}
	}
}
