// Package boltfile decides how a file of bbolt is opened, and what its damage may cost: an error, never the process.
package boltfile

import (
	"errors"
	"fmt"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// patience is how long Open waits for another process to let go of the file.
const patience = 500 * time.Millisecond

// A File belongs to one process at a time. It is safe for concurrent use.
type File struct{ db *bbolt.DB }

// Open creates the file where there is none. It fails with bbolt's ErrTimeout where another process holds it.
func Open(path string) (*File, error) {
	var db *bbolt.DB
	err := withoutPanic(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: patience, FreelistType: bbolt.FreelistMapType})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &File{db}, nil
}

// Begin is the first Update, which reads what the file says. After an error the file is closed; one that is damaged can stay
// locked until the process ends.
func (f *File) Begin(read func(tx *bbolt.Tx) error) error {
	err := f.Update(read)
	if _, ok := errors.AsType[damage](err); err != nil && !ok { // bbolt may have panicked with its locks held
		_ = f.db.Close() // the first error says more
	}
	return err
}

// Update makes a transaction of what change does, which is on the disk when it returns. After an error nothing has changed.
func (f *File) Update(change func(tx *bbolt.Tx) error) error {
	return withoutPanic(func() error { return f.db.Update(change) })
}

// Path is that of Open.
func (f *File) Path() string { return f.db.Path() }

// Close releases the file. Nothing but Close may be called after it.
func (f *File) Close() error { return f.db.Close() }

// Unreadable tells an error of a file that says nothing from that of one that cannot be had: it may be held by another process, or
// the system refuses it.
func Unreadable(err error) bool {
	_, isErrno := errors.AsType[syscall.Errno](err)
	return !isErrno && !errors.Is(err, bbolterrors.ErrTimeout)
}

// A damage is what bbolt found when it panicked.
type damage struct{ cause any }

func (d damage) Error() string { return fmt.Sprint(d.cause) }

// withoutPanic calls f and returns its panic as an error. bbolt panics where the pages of a file do not fit together, and
// reading a page that lies behind the end of a file that was cut short is a fault.
func withoutPanic(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = damage{cause}
		}
	}()
	return f()
}
