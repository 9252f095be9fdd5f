package controllers

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/clock"
	"pgregory.net/rapid"

	"github.com/tierkeeper/tierkeeper/policy"
)

func quotaOf(namespace string, number int) policy.Object {
	return policy.Object{Kind: policy.KindQuota, Name: policy.Name{Namespace: namespace, Name: strconv.Itoa(number)}}
}

// waits is one line of objects of turns, kept naively.
type waits struct {
	urgency   urgency
	namespace string
}

// TestNoTenantWaitsLongerThanARoundOfTheOthers: whatever is added, and as often as anybody likes, among equally urgent objects no
// other namespace has two turns while one waits, those that are less urgent have one after the patience of each lane, and just
// changed ones have one of three. Nothing is lost, and the objects of one namespace keep their order.
func TestNoTenantWaitsLongerThanARoundOfTheOthers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		turns, lines := newTurns(), map[waits][]policy.Object{}
		had := map[waits]map[string]int{} // by others since the line waits, or had its last turn
		passed := [urgencies]int{}
		find := func(o policy.Object) (waits, bool) {
			for w, line := range lines {
				if slices.Contains(line, o) {
					return w, true
				}
			}
			return waits{}, false
		}
		drop := func(w waits, o policy.Object) {
			if lines[w] = slices.DeleteFunc(lines[w], func(p policy.Object) bool { return p == o }); len(lines[w]) == 0 {
				delete(lines, w)
				delete(had, w)
			}
		}
		add := func(t *rapid.T) {
			o := quotaOf(rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "namespace"), rapid.IntRange(0, 9).Draw(t, "number"))
			u := urgency(rapid.IntRange(0, int(urgencies)-1).Draw(t, "urgency"))
			turns.want(o, u)
			w, known := find(o)
			if known {
				turns.Touch(o)
			} else {
				turns.Push(o)
			}
			if known && w.urgency <= u {
				return
			}
			drop(w, o)
			w = waits{u, o.Namespace}
			if lines[w] = append(lines[w], o); had[w] == nil {
				had[w] = map[string]int{}
			}
		}
		pop := func(t *rapid.T) {
			if turns.Len() == 0 {
				t.Skip("nobody waits")
			}
			o := turns.Pop()
			w, known := find(o)
			if !known || lines[w][0] != o {
				t.Fatalf("%s comes, and %v wait", o, lines)
			}
			for other := range lines {
				if other.urgency == w.urgency && other.namespace != w.namespace {
					if had[other][w.namespace]++; had[other][w.namespace] > 1 {
						t.Fatalf("namespace %q has two turns while %q waits", w.namespace, other.namespace)
					}
				}
			}
			had[w] = map[string]int{}
			for u := range passed {
				waiting := slices.ContainsFunc([]string{"", "a", "b", "c"}, func(n string) bool { return len(lines[waits{urgency(u), n}]) > 0 })
				if passed[u]++; !waiting || urgency(u) == w.urgency {
					passed[u] = 0
				}
			}
			if passed[justChanged] > 2 || passed[affected] > patience+1 || passed[looked] > patience+1 {
				t.Fatalf("turns that went to others: %v", passed)
			}
			drop(w, o)
			if got, want := turns.Len(), lengths(lines); got != want {
				t.Fatalf("%d wait, want %d", got, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){"add": add, "pop": pop})
	})
}

func lengths(lines map[waits][]policy.Object) (n int) {
	for _, line := range lines {
		n += len(line)
	}
	return n
}

// TestAFloodOfEditsHoldsUpNobody: somebody edits all objects of a namespace as fast as their status can be written.
func TestAFloodOfEditsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	q := newQueue(clock.RealClock{})
	defer q.ShutDown()
	flood := make([]policy.Object, 50)
	for i := range flood {
		flood[i] = quotaOf("loud", i)
	}
	q.add(justChanged, flood...)
	edited, told, old := quotaOf("quiet", 1), quotaOf("quiet", 2), policy.Object{Kind: policy.KindTier, Name: policy.Name{Name: "free"}}
	q.add(looked, old, edited)
	q.add(affected, told)
	q.add(justChanged, edited)
	turn := map[policy.Object]int{}
	for i := range 2 * (patience + 1) {
		o, _ := q.Get()
		turn[o] = i
		q.Done(o)
		if o.Namespace == "loud" {
			q.add(justChanged, o)
		}
	}
	want := map[policy.Object]int{edited: 1, old: patience, told: patience + 1}
	got := map[policy.Object]int{}
	for o := range want {
		got[o] = turn[o]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("turns (-want +got):\n%s", diff)
	}
}

// An object that changes while it is looked at is looked at again, as urgently as it was added.
func TestWhatChangesMeanwhileKeepsItsUrgency(t *testing.T) {
	t.Parallel()
	q := newQueue(clock.RealClock{})
	defer q.ShutDown()
	o := quotaOf("a", 1)
	q.add(looked, o)
	q.Get()
	q.add(justChanged, o)
	q.add(looked, o)
	q.add(affected, quotaOf("b", 1))
	q.Done(o)
	if next, _ := q.Get(); next != o {
		t.Errorf("%s is next, want %s", next, o)
	}
}

func BenchmarkTurns(b *testing.B) {
	const objects = 100_000
	b.ReportAllocs()
	all := make([]policy.Object, objects)
	for i := range all {
		all[i] = quotaOf(fmt.Sprintf("team-%d", i%1000), i)
	}
	for b.Loop() {
		turns := newTurns()
		for _, o := range all {
			turns.want(o, looked)
			turns.Push(o)
		}
		for turns.Len() > 0 {
			turns.Pop()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*objects), "ns/object")
}
