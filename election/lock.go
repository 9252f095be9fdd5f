package election

import (
	"context"
	"errors"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// A lock is the Lease as one replica has it. A replica that stood still finds, when it comes to release its lease, that another has
// it by now. It must not release that one's, as client-go would, which goes by what it saw before: two would lead.
type lock struct {
	resourcelock.Interface

	holder string // as it was read last
}

// Get implements resourcelock.Interface.
func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, content, err := l.Interface.Get(ctx)
	if err == nil {
		l.holder = record.HolderIdentity
	}
	return record, content, err //nolint:wrapcheck // client-go tells it by its kind.
}

// Update implements resourcelock.Interface.
func (l *lock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	if r.HolderIdentity == "" && l.holder != l.Identity() {
		return errors.New("another replica has it by now")
	}
	return l.Interface.Update(ctx, r) //nolint:wrapcheck // client-go tells it by its kind.
}
