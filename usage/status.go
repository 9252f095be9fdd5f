package usage

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

const (
	// maxLimits is how many limits the status of an object can hold.
	maxLimits = 64
	// hold is how long a condition stays True after the last time at which it was found to be: a window of a minute that is used up
	// each minute is no news each minute.
	hold = time.Minute
	// whole is a limit in percent.
	whole = 100
)

// lasting keeps the limits that a status tells of: those over everything, and those by resource or model that were used; no two of
// one id, and at most maxLimits, those of which the largest part is used. The order stays.
func lasting(all []ratelimit.LimitUse) []ratelimit.LimitUse {
	var limits []ratelimit.LimitUse
	at := map[string]int{}
	for _, l := range all {
		brief, unused := l.Per == policy.NoPer.String() || l.Per == policy.Second.String(), l.Entry != "" && l.Percent() == 0
		if brief || unused {
			continue
		}
		i, twice := at[l.ID()]
		switch {
		case !twice: // The other has another algorithm.
			at[l.ID()] = len(limits)
			limits = append(limits, l)
		case l.Percent() > limits[i].Percent():
			limits[i] = l
		}
	}
	return mostUsed(limits, maxLimits)
}

// mostUsed keeps so many limits, of those of which as much is used the first. The order stays.
func mostUsed(limits []ratelimit.LimitUse, most int) []ratelimit.LimitUse {
	if len(limits) <= most {
		return limits
	}
	percents := make([]int, len(limits))
	for i := range limits {
		percents[i] = limits[i].Percent()
	}
	slices.SortFunc(percents, func(a, b int) int { return cmp.Compare(b, a) })
	least := percents[most-1]
	places := most - slices.Index(percents, least) // for those of which just that much is used
	return slices.DeleteFunc(limits, func(l ratelimit.LimitUse) bool {
		p := l.Percent()
		if p == least {
			places--
		}
		return p < least || p == least && places < 0
	})
}

// newUsage is the coarse form of the limits.
func newUsage(limits []ratelimit.LimitUse, now time.Time) *v1alpha1.Usage {
	u := &v1alpha1.Usage{ObservationTime: new(metav1.NewTime(now.Truncate(time.Second)))}
	highest := -1
	for i := range limits {
		u.Limits = append(u.Limits, newLimitUsage(&limits[i]))
		if highest < 0 || limits[i].Percent() > limits[highest].Percent() {
			highest = i
		}
	}
	if highest >= 0 {
		u.Highest = new(u.Limits[highest])
	}
	return u
}

func newLimitUsage(l *ratelimit.LimitUse) v1alpha1.LimitUsage {
	rounded := leastOf(l.Percent(), l.Max)
	out := v1alpha1.LimitUsage{
		ID: l.ID(), Scope: l.Scope, Entry: l.Entry, Metric: l.Metric, Per: l.Per, Used: &rounded, Max: new(l.Max), Remaining: new(l.Max - rounded),
	}
	// The end of a window in which nothing was used tells nothing, and changes with each.
	if rounded > 0 {
		out.ResetTime = new(metav1.NewTime(l.Reset.Truncate(time.Second)))
	}
	return out
}

// leastOf is the least use that is so many percent of a limit, so that whoever reads it finds the same percent.
func leastOf(percent int, most int64) int64 {
	p := int64(percent)
	return most/whole*p + (most%whole*p+whole-1)/whole // and no product that could be too large
}

// percentOf is what leastOf was made of.
func percentOf(l *v1alpha1.LimitUsage) int {
	u := ratelimit.LimitUse{Used: *l.Used, Max: *l.Max}
	return u.Percent()
}

// idle reports whether there is nothing to tell of somebody of whom nothing was told yet.
func idle(limits []ratelimit.LimitUse) bool {
	return !slices.ContainsFunc(limits, func(l ratelimit.LimitUse) bool { return l.Percent() > 0 })
}

// news reports whether the new usage tells anything that the old one, which may be nil, does not.
func news(old, now *v1alpha1.Usage) bool {
	if old == nil || len(old.Limits) != len(now.Limits) {
		return true
	}
	known := map[string]*v1alpha1.LimitUsage{}
	for i := range old.Limits {
		known[old.Limits[i].ID] = &old.Limits[i]
	}
	return slices.ContainsFunc(now.Limits, func(l v1alpha1.LimitUsage) bool {
		k := known[l.ID]
		return k == nil || *k.Used != *l.Used || *k.Max != *l.Max || anotherWindow(k, &l, now.ObservationTime)
	})
}

// anotherWindow reports whether as much is used as before, but of a window that has begun since. The end of one that slides moves
// on with each request, which is no news before the old one is past.
func anotherWindow(old, l *v1alpha1.LimitUsage, now *metav1.Time) bool {
	return l.ResetTime != nil && old.ResetTime != nil && !old.ResetTime.Equal(l.ResetTime) && !now.Before(old.ResetTime)
}

// approaching words which threshold is reached, by the limit of which the largest part is used. It is empty if none is.
func approaching(limits []ratelimit.LimitUse, alerts []int) string {
	var most *ratelimit.LimitUse
	for i := range limits {
		if l := &limits[i]; reached(l, alerts) > 0 && (most == nil || l.Percent() > most.Percent()) {
			most = l
		}
	}
	if most == nil {
		return ""
	}
	return thresholdMessage(most, reached(most, alerts))
}

func thresholdMessage(l *ratelimit.LimitUse, percent int) string {
	return fmt.Sprintf("The use of the limit %s has reached %d%% of its max, %d.", l.ID(), percent, l.Max)
}

// reached is the highest threshold that the use of a limit has reached; 0 if it has reached none.
func reached(l *ratelimit.LimitUse, alerts []int) (highest int) {
	for _, percent := range alerts {
		if l.Percent() >= percent {
			highest = percent
		}
	}
	return highest
}

// exhausted words which limit is used up; of several, the one that resets last. It is empty if none is.
func exhausted(limits []ratelimit.LimitUse) string {
	var last *ratelimit.LimitUse
	for i := range limits {
		if l := &limits[i]; l.Percent() == whole && (last == nil || l.Reset.After(last.Reset)) {
			last = l
		}
	}
	switch {
	case last == nil:
		return ""
	case last.Algorithm == policy.SlidingWindow.String():
		return fmt.Sprintf("The limit %s is used up.", last.ID()) // When it is not depends on every request that still counts.
	}
	return fmt.Sprintf("The limit %s is used up until %s.", last.ID(), last.Reset.UTC().Format(time.RFC3339))
}
