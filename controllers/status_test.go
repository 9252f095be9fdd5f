package controllers

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
)

const (
	accepted   = v1alpha1.ConditionAccepted
	programmed = v1alpha1.ConditionProgrammed
)

func TestOnlyTheElectedWritesStatus(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.compile(t)
		s.wantWrites(t, 0)
		s.elect(t)
		for _, o := range []policy.Object{free, quota, edge} {
			s.want(t, o, v1alpha1.ConditionReady, "Ready 1")
		}
		s.depose()
		s.edit(t, func(q *v1alpha1.ApiKeyQuota) { q.Spec.User = "bob" })
		s.compile(t)
		s.wantWrites(t, 3)
		s.elect(t)
		s.want(t, quota, v1alpha1.ConditionReady, "Ready 2")
		s.wantWrites(t, 4)
		if got := s.quota(t).Status; got.ObservedGeneration != 2 || got.LastAccepted == nil || got.LastAccepted.Generation != 2 {
			t.Errorf("of generation 2 its status says %d and %+v", got.ObservedGeneration, got.LastAccepted)
		}
	})
}

// TestWhatIsRightIsNotWrittenAgain also where somebody else writes a condition of theirs.
func TestWhatIsRightIsNotWrittenAgain(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.elect(t)
		s.compile(t)
		q := s.quota(t)
		q.Status.Conditions = append(q.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionExhausted, Status: metav1.ConditionTrue, Reason: "LimitReached"})
		if err := s.cluster.Status().Update(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		for _, o := range []policy.Object{free, quota, edge} {
			s.touched(o)
		}
		s.hear(func(d *dataPlane) { d.services.seen[policy.KindQuota] = 0 })
		s.compile(t)
		after(time.Minute)
		s.wantWrites(t, 3)
	})
}

func TestWhatSomebodyElseHasWrittenIsPutRight(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*v1alpha1.ApiKeyQuotaStatus){
		"a condition":             func(s *v1alpha1.ApiKeyQuotaStatus) { s.Conditions[0].Message = "No." },
		"the observed generation": func(s *v1alpha1.ApiKeyQuotaStatus) { s.ObservedGeneration = 9 },
		"by what it goes on":      func(s *v1alpha1.ApiKeyQuotaStatus) { s.LastAccepted.Generation = 9 },
		"the limits of that":      func(s *v1alpha1.ApiKeyQuotaStatus) { s.LastAccepted.Spec = raw(map[string]any{}) },
		"that nothing is kept":    func(s *v1alpha1.ApiKeyQuotaStatus) { s.LastAccepted = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inScene(t, func(t *testing.T, s *scene) {
				s.elect(t)
				s.compile(t)
				want := s.quota(t).Status
				q := s.quota(t)
				change(&q.Status)
				if err := s.cluster.Status().Update(t.Context(), q); err != nil {
					t.Fatal(err)
				}
				s.touched(quota)
				after(time.Second)
				if diff := cmp.Diff(want, s.quota(t).Status); diff != "" {
					t.Errorf("status (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestAStatusThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.fails = errors.New("the API server is away")
		s.elect(t)
		s.compile(t)
		after(time.Minute)
		s.want(t, quota, accepted, "")
		s.mu.Lock()
		s.fails = nil
		s.mu.Unlock()
		after(2 * time.Minute)
		for _, o := range []policy.Object{free, quota, edge} {
			s.want(t, o, v1alpha1.ConditionReady, "Ready 1")
		}
	})
}

func TestAnObjectThatIsGoneIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.fails = apierrors.NewNotFound(schema.GroupResource{}, "gone")
		s.elect(t)
		s.compile(t)
		after(time.Hour)
		s.wantWrites(t, 3)
		if err := s.cluster.Delete(t.Context(), s.quota(t)); err != nil {
			t.Fatal(err)
		}
		s.touched(quota)
		after(time.Hour)
		s.wantWrites(t, 3)
	})
}

// TestStatusIsOfWhatWasCompiled: of a generation, or an object, that no compilation has seen nothing is said, and nothing is written
// into an object that is not the one that was judged.
func TestStatusIsOfWhatWasCompiled(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*testing.T, *scene){
		"edited": func(t *testing.T, s *scene) {
			t.Helper()
			s.edit(t, func(q *v1alpha1.ApiKeyQuota) { q.Spec.User = "bob" })
		},
		"deleted and made again": func(t *testing.T, s *scene) { t.Helper(); s.replace(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inScene(t, func(t *testing.T, s *scene) {
				s.compile(t)
				change(t, s)
				s.elect(t)
				s.want(t, quota, accepted, "")
				s.wantWrites(t, 2)
				s.compile(t)
				q := s.quota(t)
				if s.condition(t, quota, accepted) == "" {
					t.Error("it was compiled, and nothing is said of it")
				}
				if diff := cmp.Diff([]types.UID{q.UID}, s.writes[quota.Name]); diff != "" {
					t.Errorf("written to (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestAWriteIsNotRepeatedWhileTheCacheLags: the cache lacks for a moment what was written.
func TestAWriteIsNotRepeatedWhileTheCacheLags(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		former := s.quota(t)
		s.elect(t)
		s.compile(t)
		s.mu.Lock()
		s.cached = former
		s.mu.Unlock()
		s.touched(quota)
		after(time.Second)
		s.wantWrites(t, 3)
		s.depose() // Somebody else may write now, and another API server counts from another number.
		s.elect(t)
		after(time.Second)
		s.wantWrites(t, 4)
	})
}

// TestASecretIsLookedForBeforeItIsMissed: a replica that has just started does not know yet which Secrets only lack the label, and
// does not take back that one does.
func TestASecretIsLookedForBeforeItIsMissed(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.elect(t)
		s.secrets = map[policy.Name]policy.Secret{{Namespace: "team-a", Name: "keys"}: {}} // It is there, and cannot be read.
		s.compile(t)
		s.want(t, quota, accepted, "SecretNotLabelled 1")
		s.depose()

		s.secrets = nil
		s.unknown.Store(true)
		s.elect(t)
		s.compile(t)
		after(10 * time.Second)
		s.want(t, quota, accepted, "SecretNotLabelled 1")
		s.unknown.Store(false)
		after(2 * time.Second)
		s.want(t, quota, accepted, "SecretNotFound 1")
	})
}

// TestOnlyWhatMayTurnIsPutOff: whoever waits for what is said of an object has it said at once, whatever else is to be found out.
func TestOnlyWhatMayTurnIsPutOff(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.unknown.Store(true)
		s.elect(t)
		s.compile(t)
		s.want(t, quota, accepted, "Accepted 1")
		vanished := s.secrets
		s.secrets = nil
		s.compile(t)
		s.want(t, quota, accepted, "SecretNotFound 1")
		s.edit(t, func(q *v1alpha1.ApiKeyQuota) { q.Spec.User = "bob" })
		s.compile(t)
		s.want(t, quota, accepted, "SecretNotFound 2")
		s.secrets = vanished
		s.edit(t, func(q *v1alpha1.ApiKeyQuota) { q.Spec.TierRef.Name = "nowhere" })
		s.compile(t)
		s.want(t, quota, accepted, "TierNotFound 3")
		s.edit(t, func(q *v1alpha1.ApiKeyQuota) { q.Spec.TierRef.Name = "free" })
		s.compile(t)
		s.want(t, quota, accepted, "Accepted 4")
	})
}

// TestARefusedObjectSaysByWhatItGoesOn, and since when.
func TestARefusedObjectSaysByWhatItGoesOn(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.elect(t)
		s.compile(t)
		since := s.quota(t).Status.Conditions[0].LastTransitionTime
		after(time.Minute)
		s.edit(t, func(q *v1alpha1.ApiKeyQuota) { q.Spec.User = "bob" })
		s.compile(t)
		if got := s.quota(t).Status.Conditions[0].LastTransitionTime; !got.Equal(&since) {
			t.Errorf("it is accepted since %s, want since %s", got, since)
		}
		s.edit(t, func(q *v1alpha1.ApiKeyQuota) { q.Spec.TierRef.Name = "nowhere" })
		s.compile(t)
		status := s.quota(t).Status
		if status.LastAccepted == nil || status.LastAccepted.Generation != 2 || status.LastAccepted.Tiers == nil {
			t.Errorf("it goes on by %+v, want generation 2 and its plan", status.LastAccepted)
		}
		c := meta.FindStatusCondition(status.Conditions, programmed)
		if c.Reason != v1alpha1.ReasonNotAccepted || !strings.Contains(c.Message, "go on as they were accepted last") {
			t.Errorf("it is Programmed %+v, want that it goes on", c)
		}
		if !c.LastTransitionTime.After(since.Time) {
			t.Errorf("it is not in force since %s, when it was", c.LastTransitionTime)
		}
	})
}

func TestAGatewaySaysByWhatItGoesOnAndWhoServesIt(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.elect(t)
		s.compile(t)
		for want := int32(1); want <= 2; want++ {
			s.hear(func(d *dataPlane) {
				f := d.gateways[edge.Name]
				f.connected, f.current, d.unheard = int(want), 1, gone
				d.gateways[edge.Name] = f
			})
			g := &v1alpha1.QuotaGateway{}
			s.read(t, edge, g)
			if g.Status.LastAccepted == nil || g.Status.LastAccepted.Generation != 1 {
				t.Errorf("it goes on by %+v, want generation 1", g.Status.LastAccepted)
			}
			if e := g.Status.Envoys; e == nil || *e.Connected != want || *e.Acknowledged != 1 {
				t.Errorf("its Envoys are %+v, want %d and 1", e, want)
			}
		}
	})
}

// TestWhatTheDataPlaneSaysIsWritten says for each step what is new, and of whom.
func TestWhatTheDataPlaneSaysIsWritten(t *testing.T) {
	t.Parallel()
	lacks := func(d *dataPlane) { d.services.seen[policy.KindQuota] = 0 }
	alone := func(d *dataPlane) { d.services = enforcers{presence: gone} }
	inScene(t, func(t *testing.T, s *scene) {
		s.elect(t)
		s.hear(lacks)
		s.compile(t)
		s.want(t, quota, programmed, "Pending 1")
		for _, step := range []struct {
			name              string
			hears             func(*dataPlane)
			free, quota, edge string
			writes            int // of all three
		}{
			{"all have it", func(*dataPlane) {}, "Programmed", "Programmed", "Programmed", 1},
			{"a service refuses it", func(d *dataPlane) { d.refused[quota] = "no" }, "Programmed", "ServiceRejected", "Programmed", 1},
			{"it refuses it in other words", func(d *dataPlane) { d.refused[quota] = "No!" }, "Programmed", "ServiceRejected", "Programmed", 1},
			{"it does no more, and another replica is not understood", func(d *dataPlane) { d.unreadable = []string{"x"} }, "Programmed", "ServiceRejected", "Programmed", 0},
			{"it is understood", func(*dataPlane) {}, "Programmed", "Programmed", "Programmed", 1},
			{"an Envoy rejects it", func(d *dataPlane) { reject(d, "no") }, "Programmed", "Programmed", "EnvoyRejected", 1},
			{"it does no more", func(*dataPlane) {}, "Programmed", "Programmed", "Programmed", 1},
			{"no service is there", alone, "NoDataPlane", "NoDataPlane", "Programmed", 2},
			{"and not all is told", func(d *dataPlane) { alone(d); d.cut = true }, "Pending", "Pending", "Programmed", 2},
			{"all is told, and they are back", func(*dataPlane) {}, "Programmed", "Programmed", "Programmed", 2},
			{"no Envoy was heard of yet", func(d *dataPlane) { clear(d.gateways); d.unheard = awaited }, "Programmed", "Programmed", "Programmed", 0},
			{"and none is coming", func(d *dataPlane) { clear(d.gateways); d.unheard = gone }, "Programmed", "Programmed", "NoDataPlane", 1},
		} {
			s.writes = map[policy.Name][]types.UID{}
			s.hear(step.hears)
			for o, want := range map[policy.Object]string{free: step.free, quota: step.quota, edge: step.edge} {
				if got := s.condition(t, o, programmed); got != want+" 1" {
					t.Errorf("%s: %s is %s, want %s", step.name, o, got, want)
				}
			}
			if n := len(s.writes[free.Name]) + len(s.writes[quota.Name]) + len(s.writes[edge.Name]); n != step.writes {
				t.Errorf("%s: %d are written, want %d", step.name, n, step.writes)
			}
		}
	})
}

// TestWhoeverMayHaveAnObjectIsAskedAgain: somebody with the newest table has seen an object that is written anew, if that compiles
// nothing.
func TestWhoeverMayHaveAnObjectIsAskedAgain(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.elect(t)
		s.hear(func(d *dataPlane) { d.services.seen[policy.KindQuota] = 0 })
		s.compile(t)
		asked := func(o policy.Object) bool {
			s.touched(o)
			select {
			case <-s.replicas.poked:
				return true
			default:
				return false
			}
		}
		if asked(edge) {
			t.Error("the data plane is asked though it has the gateway in force")
		}
		if !asked(quota) {
			t.Error("the data plane is not asked whether it has the quota in force now")
		}
		s.hear(func(*dataPlane) {})
		if asked(quota) {
			t.Error("the data plane is asked though it has the quota in force")
		}
	})
}

func TestStatusIsWrittenNoFasterThanItMay(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.limiter = rate.NewLimiter(1, 1)
		s.elect(t)
		s.compile(t)
		for n := range 3 {
			s.wantWrites(t, n+1)
			after(time.Second)
		}
	})
}

// TestWhatIsNoMoreTrueIsNotWritten: an object may change while it waits until it may be written.
func TestWhatIsNoMoreTrueIsNotWritten(t *testing.T) {
	t.Parallel()
	inScene(t, func(t *testing.T, s *scene) {
		s.limiter = rate.NewLimiter(1, 1)
		s.limiter.Allow()
		s.elect(t)
		s.compile(t)
		s.edit(t, func(q *v1alpha1.ApiKeyQuota) { q.Spec.User = "bob" })
		after(time.Minute)
		s.wantWrites(t, 2)
		s.compile(t)
		after(time.Minute)
		s.want(t, quota, accepted, "Accepted 2")
		s.wantWrites(t, 3)
	})
}

// TestCountedEnvoysStayWhileOthersMayConnect: an operator that has just started knows of none yet.
func TestCountedEnvoysStayWhileOthersMayConnect(t *testing.T) {
	t.Parallel()
	two := int32(2)
	for name, tc := range map[string]struct {
		counted bool
		early   bool
		now     enforcers
		want    int32 // connected
	}{
		"none has come yet":                      {true, true, enforcers{}, 2},
		"one has come, and has not all in force": {true, true, enforcers{connected: 1}, 2},
		"one has come":                           {true, true, enforcers{connected: 1, current: 1}, 1},
		"nobody is awaited":                      {true, false, enforcers{}, 0},
		"it was never counted":                   {false, true, enforcers{}, 0},
	} {
		g := &v1alpha1.QuotaGateway{}
		if tc.counted {
			g.Status.Envoys = &v1alpha1.Envoys{Connected: &two, Acknowledged: &two}
		}
		if got := envoysOf(tc.now, tc.early, g); *got.Connected != tc.want {
			t.Errorf("%s: %d are connected, want %d", name, *got.Connected, tc.want)
		}
	}
}
