package usage_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/ratelimit"
	"github.com/tierkeeper/tierkeeper/usage"
)

// TestStatusFollowsUse has keys make requests while time passes, writes fail, objects are made again and leaders change, and holds the reporter to what is
// promised: no more writes than are allowed, each threshold once in a window, and in the end the truth.
func TestStatusFollowsUse(t *testing.T) {
	t.Parallel()
	const perSecond = 2
	text := `
plan: {limits: {rates: [{metric: Requests, per: Minute, max: 10}, {metric: Requests, per: Day, max: 37}]}}
quotas: {alice: {user: ann}, bob: {user: ann}, carol: {}}
users: {for-ann: {user: ann, limits: {rates: [{metric: Requests, per: Hour, max: 20}]}}}
`
	rapid.Check(t, func(rt *rapid.T) {
		c := newCluster(t, text, usage.WithWritesPerSecond(perSecond))
		told := map[string]bool{}
		began, before := c.now(), 0
		pass := func(d time.Duration) {
			c.after(d)
			for _, line := range c.reached[before:] {
				if line += windowOf(line, c.now()); told[line] {
					rt.Fatalf("told twice: %s", line)
				}
				told[line] = true
			}
			before = len(c.reached)
			if most := perSecond * (1 + c.now().Sub(began).Seconds()); float64(len(c.writes)) > most {
				rt.Fatalf("%d writes, and no more than %v are allowed", len(c.writes), most)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"use": func(rt *rapid.T) {
				key := rapid.SampledFrom([]string{"alice", "bob", "carol"}).Draw(rt, "key")
				for range rapid.IntRange(1, 12).Draw(rt, "requests") {
					if _, err := c.limiter.Reserve(t.Context(), request(key)); err != nil {
						rt.Fatal(err)
					}
				}
			},
			"pass": func(rt *rapid.T) {
				seconds := rapid.OneOf(rapid.Int64Range(1, 3), rapid.Int64Range(10, 100), rapid.Int64Range(1000, 50_000)).Draw(rt, "seconds")
				pass(time.Duration(seconds) * time.Second)
			},
			"fail": func(rt *rapid.T) {
				object := rapid.SampledFrom([]string{alice, "UserQuota team/for-ann"}).Draw(rt, "object")
				if c.fails[object] == nil {
					c.fails[object] = errRefused
				} else {
					delete(c.fails, object)
				}
			},
			"recreate": func(rt *rapid.T) {
				object := rapid.SampledFrom([]string{alice, "UserQuota team/for-ann"}).Draw(rt, "object")
				delete(c.says, object)
				// The next leader cannot know what was told of the former object.
				maps.DeleteFunc(told, func(line string, _ bool) bool { return strings.HasPrefix(line, object) })
			},
			"restart": func(*rapid.T) {
				c.restart(usage.WithWritesPerSecond(perSecond))
				began, c.writes = c.now(), nil // A leader begins with a full bucket.
			},
		})
		clear(c.fails)
		// So that nothing is held any more, not even of a window that has just ended, and all objects are read again.
		for n := 0; n < 150 || c.now().Minute() < 2; n++ {
			pass(time.Second)
		}
		for _, name := range c.limiter.Quotas() {
			usages, _, err := c.limiter.Usage(t.Context(), name)
			if err != nil {
				rt.Fatal(err)
			}
			for i := range usages {
				compareStatus(rt, &usages[i], c.says[usages[i].Object.String()])
			}
		}
	})
}

// windowOf names the window in which a message was told.
func windowOf(line string, now time.Time) string {
	for per, length := range map[string]time.Duration{"/Minute": time.Minute, "/Hour": time.Hour, "/Day": 24 * time.Hour} {
		if strings.Contains(line, per) {
			return fmt.Sprint(" at ", now.Truncate(length))
		}
	}
	return ""
}

func compareStatus(t *rapid.T, u *ratelimit.Usage, s usage.Status) {
	highest := 0
	for i := range u.Limits {
		l := &u.Limits[i]
		highest = max(highest, l.Percent())
		if s.Usage == nil {
			continue
		}
		for _, said := range s.Usage.Limits {
			told := ratelimit.LimitUse{Used: *said.Used, Max: *said.Max}
			if said.ID == l.ID() && (told.Percent() != l.Percent() || *said.Used > 0 && !said.ResetTime.Time.Equal(l.Reset)) {
				t.Errorf("%s says %d of %d until %v, want %d%% until %v", u.Object, *said.Used, *said.Max, said.ResetTime, l.Percent(), l.Reset)
			}
		}
	}
	if s.Usage == nil && highest > 0 {
		t.Errorf("%s says nothing, and %d%% of a limit is used", u.Object, highest)
	}
	for _, c := range s.Conditions {
		at := map[string]int{"ApproachingLimit": 80, "Exhausted": 100}[c.Type]
		if (c.Status == metav1.ConditionTrue) != (highest >= at) {
			t.Errorf("%s is %s %s, and %d%% of a limit is used", u.Object, c.Type, c.Status, highest)
		}
	}
}
