package memory

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/tierkeeper/tierkeeper/counter"
	"github.com/tierkeeper/tierkeeper/internal/boltfile"
)

var (
	countersBucket = []byte("counters") // counter.Key to record
	metaBucket     = []byte("meta")
	layoutKey      = []byte("layout") // one byte
)

// layout is the version of the file: of its buckets and what they are for. Values have versions of their own.
const layout = 1

// A file mirrors the counters of a store.
type file struct {
	mu sync.Mutex // held while flushing: a later state must not be overtaken by an earlier one
	db *boltfile.File
}

// Load returns a store that keeps its counters per minute, hour, day and month in the file at path, which it creates
// where there is none. It holds what the file says of the time around now. Only digests are written, never an
// identity. The file belongs to one process at a time.
//
// What changes reaches the file with Flush: call it every second, and before Close. A process that is killed loses what
// changed since. A file that is damaged can stay locked until the process ends.
func Load(path string, now time.Time) (*Store, error) {
	db, err := boltfile.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening counter file %s: %w", path, advise(err))
	}
	s := New()
	s.file = &file{db: db}
	if err := s.load(now); err != nil {
		return nil, fmt.Errorf("reading counter file %s: %w", path, advise(err))
	}
	return s, nil
}

// advise adds what the administrator can do.
func advise(err error) error {
	const startEmpty = "or move it away to start with empty counters"
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return errors.New("another process holds it: is another tierkeeper running with this --data-dir?")
	case !boltfile.Unreadable(err):
		return err
	case errors.Is(err, errNewer), errors.Is(err, bbolterrors.ErrVersionMismatch):
		return fmt.Errorf("a newer tierkeeper wrote it (%w): run that one again, "+startEmpty, err)
	default:
		return fmt.Errorf("it is damaged (%w): restore a copy, "+startEmpty, err)
	}
}

// load fills an empty store, and takes out of the file what is over.
func (s *Store) load(now time.Time) error {
	return s.file.db.Begin(func(tx *bbolt.Tx) error {
		counters, err := prepare(tx)
		if err != nil {
			return err
		}
		var over []counter.Key
		err = counters.ForEach(func(k, v []byte) error {
			key, r, err := decodePair(k, v)
			if err != nil {
				return err
			}
			if !r.runs(now) {
				over = append(over, key)
				return nil
			}
			r.restore(s.open(key, r.window()), now)
			return nil
		})
		if err != nil {
			return err
		}
		for _, key := range over {
			if err := counters.Delete(key[:]); err != nil {
				return err
			}
		}
		return nil
	})
}

// prepare checks the file, gives an empty one its layout, and returns the bucket of the counters.
func prepare(tx *bbolt.Tx) (*bbolt.Bucket, error) {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return nil, err
	}
	switch v := meta.Get(layoutKey); {
	case v == nil:
		if err := meta.Put(layoutKey, []byte{layout}); err != nil {
			return nil, err
		}
	case len(v) != 1 || v[0] > layout:
		return nil, fmt.Errorf("layout %x, this one knows %x: %w", v, layout, errNewer)
	}
	return tx.CreateBucketIfNotExists(countersBucket)
}

func decodePair(k, v []byte) (counter.Key, record, error) {
	if len(k) != len(counter.Key{}) {
		return counter.Key{}, nil, fmt.Errorf("a key has %d bytes", len(k))
	}
	r, err := decode(v)
	return counter.Key(k), r, err
}

// Flush writes to the file what has changed since the last Flush, in one transaction, and takes out the windows that
// have ended or that Sweep has forgotten. It waits for the disk, but holds up no Acquire. After an error everything is
// still to be written, so that the next Flush can make up for it. It does nothing for a store made by New.
func (s *Store) Flush(now time.Time) error {
	if s.file == nil {
		return nil
	}
	s.file.mu.Lock()
	defer s.file.mu.Unlock()
	changes := s.takeDirty()
	if len(changes) == 0 {
		return nil
	}
	if err := s.file.write(now, changes); err != nil {
		s.putBack(changes)
		return fmt.Errorf("writing counter file %s: %w", s.file.db.Path(), err)
	}
	return nil
}

// A change is the state of a cell to be written.
type change struct {
	cell   *cell
	record record
	dead   bool
}

// takeDirty empties the list of dirty cells and returns the state of each, in the order of their keys. A cell that
// changes from then on is dirty again.
func (s *Store) takeDirty() []change {
	var changes []change
	for c := s.dirty.Swap(nil); c != nil; {
		c.mu.Lock()
		changes = append(changes, change{c, recordOf(c), c.dead})
		next := c.next
		c.dirty, c.next = false, nil
		c.mu.Unlock()
		c = next
	}
	// The file is a tree: neighbours are cheap. Of the cells of one key only the last can be alive.
	slices.SortFunc(changes, func(a, b change) int {
		if c := bytes.Compare(a.cell.key[:], b.cell.key[:]); c != 0 || a.dead == b.dead {
			return c
		}
		if a.dead {
			return -1
		}
		return 1
	})
	return changes
}

func (s *Store) putBack(changes []change) {
	for _, ch := range changes {
		ch.cell.mu.Lock()
		s.touch(ch.cell)
		ch.cell.mu.Unlock()
	}
}

func (f *file) write(now time.Time, changes []change) error {
	return f.db.Update(func(tx *bbolt.Tx) error {
		counters := tx.Bucket(countersBucket)
		for _, ch := range changes {
			if err := ch.write(now, counters); err != nil {
				return err
			}
		}
		return nil
	})
}

func (ch change) write(now time.Time, counters *bbolt.Bucket) error {
	if ch.dead || ch.record.over(now) {
		return counters.Delete(ch.cell.key[:])
	}
	return counters.Put(ch.cell.key[:], encode(ch.record))
}

// Close releases the file. Nothing is written: Flush comes before. Nothing may be called after it.
func (s *Store) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.db.Close()
}
