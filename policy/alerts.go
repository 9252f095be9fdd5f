package policy

import (
	"slices"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// defaultAlerts hold where neither the quota nor its tier says anything.
var defaultAlerts = []int{80, 100}

// alerts are those that an object asks for, ascending; nil: the default.
func alerts(in *v1alpha1.Alerts) []int {
	if in == nil {
		return defaultAlerts
	}
	all := make([]int, 0, len(in.ThresholdPercents))
	for _, p := range in.ThresholdPercents {
		all = append(all, int(p))
	}
	slices.Sort(all)
	return all
}
