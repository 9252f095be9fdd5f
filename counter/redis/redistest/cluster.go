package redistest

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A Cluster is a Redis Cluster of three masters, each with a replica.
type Cluster struct {
	Nodes []*Server // the masters first, as they are at the start
}

// StartCluster starts a cluster, and ends it with the test. Further arguments are given to each node. A master is replaced only
// after a minute, so that a busy machine makes no failover: who wants one gives a shorter "--cluster-node-timeout".
func StartCluster(tb testing.TB, args ...string) *Cluster {
	tb.Helper()
	need(tb)
	c := &Cluster{}
	line := []string{"--cluster", "create"}
	for range 6 {
		// Nodes speak to each other at a port that is 10000 higher: Redis 6.2 takes no other. Where that is not free, Start takes other ports.
		node := Start(tb, append([]string{"--cluster-enabled", "yes", "--cluster-node-timeout", "60000"}, args...)...)
		c.Nodes = append(c.Nodes, node)
		line = append(line, node.Addr)
	}
	line = append(line, "--cluster-replicas", "1", "--cluster-yes")
	if out, err := exec.Command("redis-cli", line...).CombinedOutput(); err != nil { //nolint:noctx // It waits for the nodes it was given.
		tb.Fatalf("making a cluster: %v\n%s", err, out)
	}
	c.await(tb)
	return c
}

// Addrs are the addresses of all nodes.
func (c *Cluster) Addrs() []string {
	all := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		all[i] = n.Addr
	}
	return all
}

// await returns when all nodes know the whole cluster, and each replica has its master.
func (c *Cluster) await(tb testing.TB) {
	tb.Helper()
	tick, deadline := time.NewTicker(50*time.Millisecond), time.After(wait)
	defer tick.Stop()
	for !c.whole() {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("the cluster is not whole after %v:\n%s", wait, c.Nodes[0].Do("cluster", "nodes"))
		}
	}
}

func (c *Cluster) whole() bool {
	for i, n := range c.Nodes {
		info, err := n.try("cluster", "info")
		if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:6") {
			return false
		}
		if nodes, err := n.try("cluster", "nodes"); err != nil || strings.Count(nodes, "slave ") != 3 {
			return false
		}
		if role, err := n.try("role"); i >= 3 && (err != nil || !strings.Contains(role, "connected")) {
			return false
		}
	}
	return true
}
