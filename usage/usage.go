// Package usage decides what the status of an ApiKeyQuota, or of a UserQuota, says of its use, when that is written, and when
// people are told.
//
// It is coarse on purpose: counters change with every request, objects must not. Use is rounded down to whole percents of a limit,
// what comes and goes within seconds (windows of a second, and requests under way) is left to those who ask the service, and no
// more is written in a second than an API server bears, whatever the traffic. How objects are written is decided elsewhere.
package usage

import (
	"context"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// A Source knows what is used; a ratelimit.Limiter is one. What it may be used for concurrently it says itself.
type Source interface {
	Active() []policy.Name
	Quotas() []policy.Name
	Usage(ctx context.Context, quota policy.Name) (usages []ratelimit.Usage, known bool, err error)
	// Alone says that it does not know at the moment what others have admitted: what it tells may be less than it told before.
	Alone() bool
}

// A Status is what the service says in the status of one object.
type Status struct {
	Usage *v1alpha1.Usage // nil: nothing yet
	// Conditions are ApproachingLimit and Exhausted, or none as long as there is no Usage. Their observedGeneration is the Writer's to
	// set: what is counted does not depend on it.
	Conditions []metav1.Condition
}

// ErrGone says that there is no such object any more.
var ErrGone = errors.New("the object is gone")

// A Writer reads and writes the status of objects. One goroutine at a time reads, and one writes.
type Writer interface {
	// Last calls visit with every object whose status has a Usage, as it is when Last is called or later. When ctx has ended it
	// returns soon.
	Last(ctx context.Context, visit func(policy.Object, Status)) error
	// Write makes the status of the object say s, and leaves all else in it. It returns ErrGone if there is no such object.
	Write(ctx context.Context, o policy.Object, s Status) error
}

// A Reached says that the use of a limit has reached a threshold.
type Reached struct {
	Object  policy.Object
	Limit   string // the id that its status gives it
	Percent int    // the threshold
	Message string // one sentence that says so
}

// Events tells people what happened. It must not block.
type Events interface {
	// Reached is called once for a limit and its window when its use has reached a threshold, and once more when it has reached a
	// higher one, each time by the goroutine that has just written the status of the object.
	Reached(r Reached)
}
