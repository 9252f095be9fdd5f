package command

import (
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tierkeeper/tierkeeper/counter/redis"
)

// RedisOptions are those that flags give, beside a lease key.
func RedisOptions(flags ...string) (*redis.Options, error) {
	var f redisFlags
	var cmd cobra.Command
	f.add(&cmd)
	if err := cmd.ParseFlags(flags); err != nil {
		return nil, err
	}
	if err := f.check("lease.key"); err != nil {
		return nil, err
	}
	return f.complete()
}

// MemoryLimit is what a service alone makes of --memory-limit, which may be 0, and of what its cgroup says.
func MemoryLimit(flag string, ofCgroup func() (uint64, error)) (int64, error) {
	f := memoryFlags{limit: resource.QuantityValue{Quantity: resource.MustParse(flag)}}
	return f.bytes(partAlone, ofCgroup)
}

// GCPercents are by how many percent a heap grows of which so many bytes are in use, where --gc-percent is most, look after look at how
// many have been made in all.
func GCPercents(most int, inUse uint64, made ...uint64) []int {
	f, p := memoryFlags{percent: most}, pace{}
	var all []int
	for _, m := range made {
		all = append(all, f.percentOf(inUse, p.garbage(m)))
	}
	return all
}
