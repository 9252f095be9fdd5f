package controllers

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/tierkeeper/tierkeeper/policy"
)

const (
	lookEvery = 100 * time.Millisecond // between two looks at Secrets that are not watched: anybody can name any number of them
	lookAgain = 30 * time.Second       // after a look at a Secret that was not there
	lookRetry = 5 * time.Second
)

// unlabelled finds out which of the Secrets that objects name, and that are not among those that are watched, are there: they lack
// the label, and people should be told so. It asks for their metadata only. It is safe for concurrent use.
type unlabelled struct {
	api     client.Reader // past the cache
	clock   clock.WithTicker
	changed func() // called when among would answer otherwise

	mu     sync.Mutex
	wanted map[policy.Name]time.Time // when to look
	there  map[policy.Name]bool      // of those that were looked for
}

func newUnlabelled(api client.Reader, c clock.WithTicker, changed func()) *unlabelled {
	return &unlabelled{api: api, clock: c, changed: changed, wanted: map[policy.Name]time.Time{}, there: map[policy.Name]bool{}}
}

// among returns those of the names that are known to be there, and has the others looked up. It is sure if each was looked for;
// until then what is not found may yet turn out to lack the label only.
func (u *unlabelled) among(names []policy.Name) (there []policy.Name, sure bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now, wanted, known := u.clock.Now(), make(map[policy.Name]time.Time, len(names)), map[policy.Name]bool{}
	for _, n := range names {
		wanted[n] = now
		if at, known := u.wanted[n]; known {
			wanted[n] = at
		}
		found, looked := u.there[n]
		if looked {
			known[n] = found
		}
		if found {
			there = append(there, n)
		}
	}
	u.wanted, u.there = wanted, known
	return there, len(known) == len(wanted)
}

// Start looks, one by one, until ctx ends.
func (u *unlabelled) Start(ctx context.Context) error {
	ticker := u.clock.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			if name, due := u.next(); due {
				u.look(ctx, name)
			}
		}
	}
}

// NeedLeaderElection says that every replica looks.
func (u *unlabelled) NeedLeaderElection() bool { return false }

// next is the one whose time has come for longest.
func (u *unlabelled) next() (next policy.Name, due bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.clock.Now()
	for name, at := range u.wanted {
		if !at.After(now) && (!due || at.Before(u.wanted[next])) {
			next, due = name, true
		}
	}
	return next, due
}

func (u *unlabelled) look(ctx context.Context, name policy.Name) {
	secret := &metav1.PartialObjectMetadata{}
	secret.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := u.api.Get(ctx, types.NamespacedName{Namespace: name.Namespace, Name: name.Name}, secret)
	there, again := err == nil, lookAgain
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) { // Who may not look cannot tell whether it is there.
		log.FromContext(ctx).Error(err, "could not look for a Secret", "secret", name.String())
		there, again = u.known(name), lookRetry
	}
	if u.found(name, there, again) {
		u.changed()
	}
}

func (u *unlabelled) known(name policy.Name) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.there[name]
}

// found notes what a look found, and reports whether among would answer otherwise.
func (u *unlabelled) found(name policy.Name, there bool, again time.Duration) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, still := u.wanted[name]; !still {
		return false
	}
	u.wanted[name] = u.clock.Now().Add(again)
	before, looked := u.there[name]
	u.there[name] = there
	return before != there || !looked && len(u.there) == len(u.wanted)
}
