package command

import "k8s.io/apimachinery/pkg/api/resource"

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
