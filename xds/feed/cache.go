package feed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tierkeeper/tierkeeper/internal/boltfile"
)

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

// A cache is the file that keeps the last Table: exactly what a consistent set said. Until it has a version it holds none, but
// may hold parts.
type cache struct {
	*boltfile.File

	whole bool // it holds a Table
}

const (
	step = 5000 // records of the first Table that are written at once
	fill = 0.9  // of a page: most are written in order, and stay as long as they are
)

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
	if err != nil && boltfile.Unreadable(err) {
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
	file, err := boltfile.Open(f.CacheFile)
	if err != nil {
		return nil, "", err
	}
	err = file.Begin(func(tx *bbolt.Tx) (err error) {
		version, err = f.readAll(tx)
		return err
	})
	return &cache{file, version != ""}, version, err
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
	c := resources.Cursor()
	for name, v := c.Last(); name != nil; name, v = c.Prev() { // as referredFirst
		content, ok := unseal(v)
		if !ok {
			return "", fmt.Errorf("%w: %q", errDamaged, name)
		}
		f.set(string(name), versionOf(content), &anypb.Any{TypeUrl: typeURL, Value: content})
	}
	return string(meta.Get(versionKey)), nil
}

// keep writes what has changed since the last consistent set. After an error all of it is still to be written.
func (f *follower) keep(ctx context.Context) {
	if len(f.unkept) == 0 {
		return
	}
	err := f.cache.write(f.unkept, f.version)
	if err != nil {
		f.Log.ErrorContext(ctx, "the policy was not written: a restart without the policy server would begin with an older one", "file", f.CacheFile, "error", err)
		return
	}
	f.unkept = map[string]record{} // One that was cleared would keep the room for the first set, which is everything.
}

// write writes the first Table in steps: it has all parts, and what is written at once is in memory several times.
func (c *cache) write(records map[string]record, version string) error {
	names := slices.Sorted(maps.Keys(records)) // The file is a tree: neighbours are cheap.
	for ; !c.whole && len(names) > step; names = names[step:] {
		if err := c.Update(func(tx *bbolt.Tx) error { return put(tx, records, names[:step]) }); err != nil {
			return err
		}
	}
	err := c.Update(func(tx *bbolt.Tx) error {
		if err := put(tx, records, names); err != nil {
			return err
		}
		return tx.Bucket(metaBucket).Put(versionKey, []byte(version))
	})
	c.whole = c.whole || err == nil
	return err
}

func put(tx *bbolt.Tx, records map[string]record, names []string) error {
	resources := tx.Bucket(resourcesBucket)
	resources.FillPercent = fill
	for _, name := range names {
		if err := records[name].write(resources, []byte(name)); err != nil {
			return err
		}
	}
	return nil
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
		_ = f.cache.Close() // All of it was written before.
	}
}
