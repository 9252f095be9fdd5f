package memory

import (
	"github.com/tierkeeper/tierkeeper/counter"
)

func (s *Store) shard(key counter.Key) *shard { return &s.shards[key[0]] }

func (s *Store) horizon(key counter.Key) int64 {
	sh := s.shard(key)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.horizon
}

// find returns the cell of key, or nil. It may be dead by the time it is looked at.
func (s *Store) find(key counter.Key) *cell {
	sh := s.shard(key)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.cells[key]
}

// open returns the cell of key, and makes it where there is none. It may be dead by the time it is looked at.
func (s *Store) open(key counter.Key, window counter.Window) *cell {
	if c := s.find(key); c != nil {
		return c
	}
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.cells[key]
	if c == nil {
		c = newCell(key, window, sh.horizon)
		sh.cells[key] = c
	}
	return c
}

// lock returns the cell of key, locked and alive, and makes it where there is none.
func (s *Store) lock(key counter.Key, window counter.Window) *cell {
	for {
		c := s.open(key, window)
		c.mu.Lock()
		if !c.dead {
			return c
		}
		c.mu.Unlock()
	}
}

// lockFound returns the cell of key, locked and alive, or nil where there is none.
func (s *Store) lockFound(key counter.Key) *cell {
	c := s.find(key)
	if c == nil {
		return nil
	}
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return nil
	}
	return c
}

// touch notes that c, which the caller has locked, is no longer what the file says.
func (s *Store) touch(c *cell) {
	if s.file == nil || c.dirty || !kept(c.window) {
		return
	}
	c.dirty = true
	for {
		c.next = s.dirty.Load()
		if s.dirty.CompareAndSwap(c.next, c) {
			return
		}
	}
}
