package controllers

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tierkeeper/tierkeeper/policy"
)

// A search looks for Secrets in a cluster with one that lacks the label.
type search struct {
	*unlabelled

	fails error

	counts  sync.Mutex
	looked  []string // what was asked for
	changes int
}

// told is what was asked for so far, and how often somebody was told of a change.
func (s *search) told() (looked []string, changes int) {
	s.counts.Lock()
	defer s.counts.Unlock()
	return slices.Clone(s.looked), s.changes
}

func newSearch(c clock.WithTicker) *search {
	s := &search{}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "there"}, Data: map[string][]byte{"token": []byte("sk-1")}}
	api := fake.NewClientBuilder().WithScheme(Scheme()).WithObjects(secret).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if _, metadata := o.(*metav1.PartialObjectMetadata); !metadata {
				return errors.New("more than metadata is asked for")
			}
			s.counts.Lock()
			s.looked = append(s.looked, key.Name)
			s.counts.Unlock()
			if s.fails != nil {
				return s.fails
			}
			return c.Get(ctx, key, o, opts...)
		},
	}).Build()
	s.unlabelled = newUnlabelled(api, c, func() {
		s.counts.Lock()
		defer s.counts.Unlock()
		s.changes++
	})
	return s
}

// TestALookFindsOutWhetherASecretIsThere, and tells only what is news.
func TestALookFindsOutWhetherASecretIsThere(t *testing.T) {
	t.Parallel()
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "there", errors.New("no role permits it"))
	for name, tc := range map[string]struct {
		secret       string
		fails        error
		there, known bool
		again        time.Duration // when it is looked for again
	}{
		"it is there":         {secret: "there", there: true, known: true, again: lookAgain},
		"it is not":           {secret: "nowhere", known: true, again: lookAgain},
		"it may not be asked": {secret: "there", fails: forbidden, known: true, again: lookAgain},
		"it cannot be asked":  {secret: "there", fails: errors.New("the API server is away"), again: lookRetry},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := testclock.NewFakeClock(time.Unix(100, 0))
			s := newSearch(clock)
			s.fails = tc.fails
			names := []policy.Name{inTeam("team", tc.secret)}
			s.among(names)
			s.look(t.Context(), names[0])
			if open := s.open(names[0]); open != (tc.there || !tc.known) {
				t.Errorf("it is open: %t", open)
			}
			if got := len(s.among(names)) == 1; got != tc.there || s.changes != len(s.among(names)) {
				t.Errorf("it is there: %t, want %t; told %d times", got, tc.there, s.changes)
			}
			clock.Step(tc.again - time.Millisecond)
			if _, due := s.next(); due {
				t.Error("it is looked for again too early")
			}
			clock.Step(time.Millisecond)
			if _, due := s.next(); !due {
				t.Error("it is not looked for again")
			}
			s.among(nil)
			s.look(t.Context(), names[0])
			if len(s.wanted) != 0 || s.changes > 1 {
				t.Error("somebody is told of what nobody names any more")
			}
		})
	}
}

func TestSecretsAreLookedForOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSearch(clock.RealClock{})
		s.among([]policy.Name{inTeam("team", "first")})
		<-time.After(time.Millisecond)
		s.among([]policy.Name{inTeam("team", "there"), inTeam("team", "first")})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Start(ctx) }()
		after(lookEvery)
		looked, _ := s.told()
		if diff := cmp.Diff([]string{"first"}, looked); diff != "" {
			t.Errorf("looked for (-want +got):\n%s", diff)
		}
		after(10 * lookEvery)
		looked, changes := s.told()
		if diff := cmp.Diff([]string{"first", "there"}, looked); diff != "" || changes != 1 {
			t.Errorf("told %d times; looked for (-want +got):\n%s", changes, diff)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestATurnIsRememberedOverCompilations, which may come as often as anybody edits something.
func TestATurnIsRememberedOverCompilations(t *testing.T) {
	t.Parallel()
	clock := testclock.NewFakeClock(time.Unix(100, 0))
	s := newSearch(clock)
	s.among([]policy.Name{inTeam("many", "a"), inTeam("many", "b")})
	clock.Step(time.Second)
	names := []policy.Name{inTeam("many", "a"), inTeam("many", "b"), inTeam("one", "c")}
	var turns []string
	for range 2 {
		s.among(names)
		clock.Step(time.Second)
		next, _ := s.next()
		s.found(next, false)
		turns = append(turns, next.Namespace)
	}
	slices.Sort(turns)
	if diff := cmp.Diff([]string{"many", "one"}, turns); diff != "" {
		t.Errorf("turns (-want +got):\n%s", diff)
	}
}
