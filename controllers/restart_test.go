package controllers

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

// A life is a quota with a key and a gateway that have names in common with those of other lives, and a UID of their own.
type life types.UID

// writes is a generation of the life: a limit, and a listener at a port.
func (l life) writes(generation, limit int64, port int32) policy.Input {
	in := written(generation, limit)
	in.Quotas[0].UID, in.Gateways[0].UID = types.UID(l), types.UID(l)
	in.Gateways[0].Spec.Listeners[0].Port = port
	in.Gateways[0].Spec.Identity.MissingKey = &v1alpha1.Stranger{Action: v1alpha1.StrangerAssignTier, TierRef: &v1alpha1.Ref{Name: "free"}}
	return in
}

// isRefused is a generation that cannot be accepted, because its plan and its Secret are gone and a key is looked for nowhere, and
// that the operator has refused.
func (l life) isRefused(generation int64) policy.Input {
	in := l.writes(generation, 100, 100)
	in.Tiers, in.Secrets, in.Gateways[0].Spec.Identity.Sources = nil, nil, []v1alpha1.KeySource{{}}
	refusal := []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, ObservedGeneration: generation}}
	in.Quotas[0].Status.Conditions, in.Gateways[0].Status.Conditions = refusal, refusal
	return in
}

// remembers has the status say by what the objects go on.
func remembers(in *policy.Input, former policy.Input) {
	kept(&former, false)
	in.Quotas[0].Status.LastAccepted, in.Gateways[0].Status.LastAccepted = former.Quotas[0].Status.LastAccepted, former.Gateways[0].Status.LastAccepted
}

// A replica compiles one view after the other, as Reconcile does.
type replica struct {
	policy.Compiler

	table *policy.Table
}

func (r *replica) compile(in policy.Input) {
	if r.table == nil {
		r.table = &policy.Table{}
	}
	in.LastAccepted = lastAccepted(r.table, in.Quotas, in.Gateways)
	r.table, _ = r.Compile(in)
}

// limit is that of the key, and port that of the gateway; 0: there is none.
func (r *replica) inForce() (limit int64, port uint32) {
	if c, found := r.table.Lookup(policy.HashKey([]byte("sk-app"))); found && c.Holder != nil {
		limit = r.table.Resolve(nil, c.Holder, "", "").Limits[0].Max
	}
	if g, found := r.table.Gateway(edge.Name.String()); found {
		port = g.Listeners[0].Port
	}
	return limit, port
}

func (r *replica) want(t *testing.T, limit int64, port uint32) {
	t.Helper()
	if gotLimit, gotPort := r.inForce(); gotLimit != limit || gotPort != port {
		t.Errorf("in force are a limit of %d and a listener at %d, want %d and %d", gotLimit, gotPort, limit, port)
	}
}

// TestAReplacedObjectHasNothingOfTheFormer: an object that was deleted and made again while nobody could see it is refused, and
// does not go on as the former of its name, wherever a replica knows that one from.
func TestAReplacedObjectHasNothingOfTheFormer(t *testing.T) {
	t.Parallel()
	for name, former := range map[string]func() policy.Input{
		"which was accepted": func() policy.Input { return life("one").writes(1, 7, 7) },
		"which went on by its status, after a restart": func() policy.Input {
			in := life("one").isRefused(2)
			remembers(&in, life("one").writes(1, 7, 7))
			return in
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r replica
			r.compile(former())
			r.want(t, 7, 7)
			r.compile(life("two").isRefused(1))
			r.want(t, 0, 0)
		})
	}
}

// TestStatusCountsForWhoKnewTheFormer: a replica that remembers the former object of the name goes by the status of the new one.
func TestStatusCountsForWhoKnewTheFormer(t *testing.T) {
	t.Parallel()
	var r replica
	r.compile(life("one").writes(1, 7, 7))
	in := life("two").isRefused(2)
	remembers(&in, life("two").writes(1, 9, 9))
	r.compile(in)
	r.want(t, 9, 9)
}

// TestAGatewayGoesOnByStatus: where it was refused as it is, all replicas go by what was written; elsewhere by what they remember.
func TestAGatewayGoesOnByStatus(t *testing.T) {
	t.Parallel()
	refused := life("one").isRefused(3)
	remembers(&refused, life("one").writes(1, 7, 7))
	unjudged := life("one").isRefused(3)
	unjudged.Gateways[0].Status.Conditions, unjudged.Gateways[0].Status.LastAccepted = nil, refused.Gateways[0].Status.LastAccepted

	var fresh, knowing replica
	fresh.compile(unjudged)
	if _, port := fresh.inForce(); port != 7 {
		t.Errorf("a replica that knows nothing serves port %d, want 7", port)
	}
	if g, found := fresh.table.Gateway(edge.Name.String()); !found || g.MissingKey == nil || len(g.Sources) != 1 {
		t.Error("the plan of requests without a key is gone")
	}
	knowing.compile(life("one").writes(2, 8, 8))
	knowing.compile(unjudged)
	if _, port := knowing.inForce(); port != 8 {
		t.Errorf("a replica that remembers generation 2 serves port %d before anybody has refused the next, want 8", port)
	}
	knowing.compile(refused)
	knowing.want(t, 7, 7)
}
