package standalone

import (
	"context"
	"log/slog"

	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

// source is the manifests, and what of them was accepted last. It is not safe for concurrent use.
type source struct {
	path   string
	loader manifest.Loader
	lost   func(policy.Object) bool // what could not be read at the start; see restore
	state  *state
}

// A reading is what the manifests said at one time, and what is made of it.
type reading struct {
	found    manifest.Result
	table    *policy.Table
	verdicts []policy.Verdict
}

func (s *source) read() reading {
	r := reading{found: s.loader.Load(s.path)}
	in := r.found.Input
	in.LastAccepted = s.state.accepted
	s.restore(&in, &r.found)
	r.table, r.verdicts = policy.Compile(in)
	return r
}

// keep notes what was accepted, for the next reading and the next start.
func (s *source) keep(ctx context.Context, r *reading, log *slog.Logger) {
	if err := s.state.keep(r.table.Accepted()); err != nil {
		log.ErrorContext(ctx, "could not keep what was accepted", "error", err)
	}
}

// restore lets what cannot be read at the start go on as it was last accepted, until everything can be read again. Later the
// loader itself remembers; what is deleted then is gone, whatever else is broken.
func (s *source) restore(in *policy.Input, found *manifest.Result) {
	if s.lost == nil {
		s.lost = lostAtStart(found.Problems)
	}
	if len(found.Problems) == 0 {
		s.lost = func(policy.Object) bool { return false }
	}
	in.LastAccepted.Restore(in, s.lost)
}

// lostAtStart names the objects that problems may hide: the one that a problem names, and any if a document cannot be read.
func lostAtStart(problems []manifest.Problem) func(policy.Object) bool {
	named, unreadable := map[policy.Object]bool{}, false
	for _, p := range problems {
		named[p.Object] = true
		unreadable = unreadable || p.Reason == manifest.ReasonUnreadable
	}
	return func(o policy.Object) bool { return unreadable || named[o] }
}

// follow puts each change of the manifests in force by load, until ctx ends.
func follow(ctx context.Context, changes <-chan manifest.Change, log *slog.Logger, load func(context.Context) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case change, ok := <-changes:
			if !ok {
				changes = nil // Nothing more will come.
				continue
			}
			if change.Err != nil {
				log.WarnContext(ctx, "not everything is watched: an edit may go unseen", "error", change.Err)
			}
			if err := load(ctx); err != nil {
				log.ErrorContext(ctx, "the last good state holds", "error", err)
			}
		}
	}
}
