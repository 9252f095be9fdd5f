package feed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/types/known/anypb"
)

// patience is how long a client waits for another process to let go of the file.
const patience = 500 * time.Millisecond

var (
	resourcesBucket = []byte("resources") // name to sum and content
	metaBucket      = []byte("meta")
	layoutKey       = []byte("layout")  // one byte
	versionKey      = []byte("version") // of the Table
)

// layout is the version of the file.
const layout = 1

var (
	errNewer   = errors.New("a newer tierkeeper wrote it")
	errDamaged = errors.New("a record is damaged")
)

// A cache is the file that keeps the last Table: exactly what a consistent set said.
type cache struct{ db *bbolt.DB }

// A record is a resource as it is to be kept. One that was refused replaces nothing: what was known of it before holds after a
// restart, too.
type record struct {
	content []byte
	refused bool
	gone    bool // to be deleted
}

// load puts in force what the file says. Without it the client starts with nothing.
func (f *follower) load(ctx context.Context) {
	if f.CacheFile == "" {
		return
	}
	c, version, err := f.open()
	if err != nil && unreadable(err) {
		aside := f.CacheFile + ".unreadable"
		f.Log.ErrorContext(ctx, "the file of the last policy cannot be read and is put aside: the policy is asked for anew",
			"file", f.CacheFile, "aside", aside, "error", err)
		if err = os.Rename(f.CacheFile, aside); err == nil {
			f.forget()
			c, version, err = f.open()
		}
	}
	if err != nil {
		f.Log.ErrorContext(ctx, "the policy is not kept across restarts: the file cannot be opened", "file", f.CacheFile, "error", err)
		f.forget()
		return
	}
	f.cache = c
	if version != "" {
		f.putInForce(ctx, version)
	}
}

// forget drops what was read of a file before it turned out to be unreadable.
func (f *follower) forget() { *f = *newFollower(f.ClientConfig, f.obey) }

// open reads the whole file. The version is empty where it holds no Table.
func (f *follower) open() (c *cache, version string, err error) {
	err = withoutPanic(func() error {
		db, err := bbolt.Open(f.CacheFile, 0o600, &bbolt.Options{Timeout: patience, FreelistType: bbolt.FreelistMapType})
		if err != nil {
			return err
		}
		c = &cache{db}
		return db.Update(func(tx *bbolt.Tx) (err error) {
			version, err = f.readAll(tx)
			return err
		})
	})
	if _, ok := errors.AsType[damage](err); err != nil && c != nil && !ok { // bbolt may have panicked with its locks held
		_ = c.db.Close() // the first error says more
	}
	return c, version, err
}

func (f *follower) readAll(tx *bbolt.Tx) (version string, err error) {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return "", err
	}
	switch v := meta.Get(layoutKey); {
	case v == nil:
		if err := meta.Put(layoutKey, []byte{layout}); err != nil {
			return "", err
		}
	case len(v) != 1 || v[0] > layout:
		return "", fmt.Errorf("layout %x, this one knows %x: %w", v, layout, errNewer)
	}
	resources, err := tx.CreateBucketIfNotExists(resourcesBucket)
	if err != nil {
		return "", err
	}
	err = resources.ForEach(func(name, v []byte) error {
		content, ok := unseal(v)
		if !ok {
			return fmt.Errorf("%w: %q", errDamaged, name)
		}
		f.set(string(name), versionOf(content), &anypb.Any{TypeUrl: typeURL, Value: content})
		return nil
	})
	return string(meta.Get(versionKey)), err
}

// unreadable tells a file that says nothing from one that cannot be had.
func unreadable(err error) bool {
	_, isErrno := errors.AsType[syscall.Errno](err)
	return !isErrno && !errors.Is(err, bbolterrors.ErrTimeout)
}

// keep writes what has changed since the last consistent set. After an error all of it is still to be written.
func (f *follower) keep(ctx context.Context) {
	if len(f.unkept) == 0 {
		return
	}
	err := withoutPanic(func() error { return f.cache.write(f.unkept, f.version) })
	if err != nil {
		f.Log.ErrorContext(ctx, "the policy was not written: a restart without the policy server would begin with an older one", "file", f.CacheFile, "error", err)
		return
	}
	clear(f.unkept)
}

func (c *cache) write(records map[string]record, version string) error {
	return c.db.Update(func(tx *bbolt.Tx) error {
		resources := tx.Bucket(resourcesBucket)
		for _, name := range slices.Sorted(maps.Keys(records)) { // The file is a tree: neighbours are cheap.
			if err := records[name].write(resources, []byte(name)); err != nil {
				return err
			}
		}
		return tx.Bucket(metaBucket).Put(versionKey, []byte(version))
	})
}

func (r record) write(resources *bbolt.Bucket, name []byte) error {
	switch {
	case r.gone:
		return resources.Delete(name)
	case r.refused && resources.Get(name) != nil:
		return nil
	}
	return resources.Put(name, seal(r.content))
}

// seal puts a sum before the content: nothing else in the file would tell that a byte of it has changed.
func seal(content []byte) []byte {
	sum := sha256.Sum256(content)
	return append(sum[:sealed:sealed], content...)
}

const sealed = 8

func unseal(v []byte) (content []byte, ok bool) {
	if len(v) < sealed {
		return nil, false
	}
	content = bytes.Clone(v[sealed:]) // The file's memory is gone after the transaction.
	sum := sha256.Sum256(content)
	return content, bytes.Equal(sum[:sealed], v[:sealed])
}

func (f *follower) close() {
	if f.cache != nil {
		_ = f.cache.db.Close() // All of it was written before.
	}
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
