package command

import "k8s.io/apimachinery/pkg/api/resource"

// MemoryLimit is what a service alone makes of --memory-limit, which may be 0, and of what its cgroup says.
func MemoryLimit(flag string, ofCgroup func() (uint64, error)) (int64, error) {
	f := memoryFlags{limit: resource.QuantityValue{Quantity: resource.MustParse(flag)}}
	return f.bytes(partAlone, ofCgroup)
}
