package manifest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Editors and tools write a file in several steps. A change is told when nothing has happened for quiet, but no later than
// longest after it began.
const (
	quiet   = 100 * time.Millisecond
	longest = time.Second
)

// A Change says that the manifests may have changed.
type Change struct {
	// Err, unless nil, says why parts of the directory are not watched: further changes may go unseen until the next Change.
	Err error
}

// Watch tells when what Load reads at path may have changed: a file, a directory below it, the target of a symbolic link,
// or the path itself, which need not be there yet. Call it before the first Load, so that nothing is missed between them.
// Changes that the receiver has not taken yet are told once. The channel is closed when ctx ends. The error says that files
// cannot be watched at all.
func Watch(ctx context.Context, path string) (<-chan Change, error) {
	w := &watch{path: path}
	err := w.renew()
	if w.notifier == nil {
		return nil, err
	}
	changes := make(chan Change, 1)
	if err != nil {
		changes <- Change{err}
	}
	go func() {
		defer close(changes)
		defer w.close()
		for settle(ctx, w.notifier.Events, w.notifier.Errors, w.counts) {
			tell(changes, Change{w.renew()})
		}
	}()
	return changes, nil
}

// watch is the notifier in use and what its events are held against.
type watch struct {
	path     string
	notifier *fsnotify.Watcher
	dirs     map[string]bool  // real paths of the directories of the tree
	links    map[dirName]bool // what decides, from inside or outside, what is in the tree
}

// renew watches the tree as it is now. It leaves no gap: each directory is watched before it is looked into, and the old
// notifier goes on until the new one is complete. If there can be no new one, the old one goes on.
func (w *watch) renew() error {
	notifier, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("making a file watcher: %w", err)
	}
	var errs []error
	t := walk(w.path, func(dir string) {
		if err := notifier.Add(dir); err != nil {
			errs = append(errs, fmt.Errorf("watching %s: %w", dir, err))
		}
	})
	w.close()
	w.notifier, w.dirs, w.links = notifier, t.dirs, t.links
	return errors.Join(errs...)
}

func (w *watch) close() {
	if w.notifier != nil {
		_ = w.notifier.Close() // it is not used again
	}
}

// counts reports whether an event can change what Load reads.
func (w *watch) counts(e fsnotify.Event) bool {
	dir, name := filepath.Split(e.Name)
	dir = filepath.Clean(dir)
	if w.dirs[e.Name] || w.links[dirName{dir, name}] {
		return true
	}
	if !w.dirs[dir] || hidden(name) {
		return false
	}
	return isManifest(name) || e.Has(fsnotify.Create) && isDir(e.Name)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// settle waits for an event that counts, and then until things are quiet. It returns false when ctx ends or there will be no
// more events. An error counts: events may have been lost.
func settle(ctx context.Context, events <-chan fsnotify.Event, errs <-chan error, counts func(fsnotify.Event) bool) bool {
	var calm, late <-chan time.Time
	for {
		var happened bool
		select {
		case <-ctx.Done():
			return false
		case <-calm:
			return true
		case <-late:
			return true
		case e, open := <-events:
			if !open {
				return false
			}
			happened = counts(e)
		case _, open := <-errs:
			if !open {
				return false
			}
			happened = true
		}
		if happened {
			calm = time.After(quiet)
			if late == nil {
				late = time.After(longest)
			}
		}
	}
}

// tell leaves a change for the receiver. One that is still there is replaced.
func tell(changes chan Change, c Change) {
	select {
	case <-changes:
	default:
	}
	changes <- c
}
