package controllers

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// seenSince is the resource version at which the object's generation was seen first. If it has turned to be accepted, whoever has
// it in force has seen it refused: it is the one that the object gets by being told so.
func (s *status) seenSince(o policy.Object, held client.Object, turned bool) uint64 {
	next := s.tables.next(o.Kind)
	s.mu.Lock()
	defer s.mu.Unlock()
	g, known := s.since[o]
	switch {
	case turned:
		g = generation{held.GetUID(), held.GetGeneration(), next}
	case !known || g.number != held.GetGeneration() || g.uid != held.GetUID():
		g = generation{held.GetUID(), held.GetGeneration(), versionOf(held)}
	}
	s.since[o] = g
	return g.version
}

// hasTurned reports whether a generation is accepted that was not: something has come that it lacked.
func hasTurned(v *policy.Verdict, before []metav1.Condition) bool {
	c := meta.FindStatusCondition(before, v1alpha1.ConditionAccepted)
	return v.Accepted() && c != nil && c.Status == metav1.ConditionFalse && c.ObservedGeneration == v.Generation
}

// isOpen reports whether somebody still has to acknowledge the object.
func (s *status) isOpen(o policy.Object) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[o]
}

// settle notes whether somebody still has to acknowledge the object.
func (s *status) settle(o policy.Object, conditions []metav1.Condition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionProgrammed); c.Reason == v1alpha1.ReasonPending {
		s.open[o] = true
	} else {
		delete(s.open, o)
	}
	pending.Set(float64(len(s.open)))
}

func (s *status) forget(o policy.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.since, o)
	delete(s.open, o)
	delete(s.written, o)
}

// wrote notes the resource version that a write had, until the cache has it.
func (s *status) wrote(o policy.Object, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written[o] = version
}

// behind reports whether the cache lacks what was written last: what it says would be written again.
func (s *status) behind(o policy.Object, held uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.written[o] > held {
		return true
	}
	delete(s.written, o)
	return false
}

var (
	statusWrites = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tierkeeper_status_writes_total",
		Help: "Writes of the status of objects, by result.",
	}, []string{"result"})
	pending = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tierkeeper_pending_objects",
		Help: "Objects that are accepted and not in force everywhere yet.",
	})
)
