package standalone

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tierkeeper/tierkeeper/policy"
)

// Files of the data directory. Each mode has its own, so that both can have one directory.
const (
	stateFile        = "accepted.json"
	serviceStateFile = "accepted-ratelimit.json"
)

// state is what was last accepted, and which gateway had which port, kept in the data directory, so that a restart over
// broken manifests goes on as before. It holds digests of keys, and no key.
type state struct {
	path     string
	accepted policy.Accepted
	ports    map[uint32]policy.Name
	written  string
}

// stateContent is what the file holds.
type stateContent struct {
	policy.Accepted
	Ports map[uint32]policy.Name `json:"ports,omitempty"`
}

func loadState(path string) (*state, error) {
	s := &state{path: path}
	content, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what was last accepted: %w", err)
	}
	var held stateContent
	if err := json.Unmarshal(content, &held); err != nil {
		return nil, fmt.Errorf("reading what was last accepted from %s (delete the file to start without it): %w", s.path, err)
	}
	s.accepted, s.ports, s.written = held.Accepted, held.Ports, string(content)
	return s, nil
}

// keep takes in a, and writes the state if it is new.
func (s *state) keep(a policy.Accepted) error {
	s.accepted = a
	content, err := json.Marshal(stateContent{a, s.ports})
	if err != nil {
		return fmt.Errorf("writing what was accepted: %w", err)
	}
	if string(content) == s.written {
		return nil
	}
	if err := replace(s.path, content); err != nil {
		return fmt.Errorf("writing what was accepted: %w", err)
	}
	s.written = string(content)
	return nil
}

// replace leaves the old file or the new one, also after a loss of power.
func replace(path string, content []byte) error {
	next, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = next.Write(content)
	if err := errors.Join(err, next.Sync(), next.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
