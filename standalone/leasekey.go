package standalone

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	leaseKeyFile = "lease.key"
	leaseKeySize = 32 // bytes; a line has at least as many characters
)

// leaseKeys are what leases are signed with. They outlive the process, so that what was reserved before a restart can be
// settled after it.
type leaseKeys struct {
	signing []byte
	former  []byte // verifies as well; nil: none
}

// loadLeaseKeys reads the file at path, or, if that is empty, the one in the data directory, which it makes where there is
// none.
func loadLeaseKeys(path, dataDir string) (leaseKeys, error) {
	own := filepath.Join(dataDir, leaseKeyFile)
	if path == "" {
		path = own
	}
	content, err := os.ReadFile(path)
	if path == own && errors.Is(err, fs.ErrNotExist) {
		content, err = makeLeaseKey(path)
	}
	if err != nil {
		return leaseKeys{}, fmt.Errorf("reading the key that signs leases: %w", err)
	}
	keys, err := parseLeaseKeys(string(content))
	if err != nil {
		return leaseKeys{}, fmt.Errorf("reading the key that signs leases from %s: %w", path, err)
	}
	return keys, nil
}

func makeLeaseKey(path string) ([]byte, error) {
	random := make([]byte, leaseKeySize)
	_, _ = rand.Read(random) // it never fails, but ends the program instead
	content := []byte(hex.EncodeToString(random) + "\n")
	return content, replace(path, content)
}

// parseLeaseKeys takes each line for a key: the first signs. Errors tell nothing of the keys.
func parseLeaseKeys(content string) (keys leaseKeys, err error) {
	lines := strings.Fields(content)
	if len(lines) == 0 || len(lines) > 2 {
		return keys, fmt.Errorf("it has %d lines; it must have one, or two while a key is being replaced: the new key first, then the old one", len(lines))
	}
	for i, line := range lines {
		if len(line) < leaseKeySize {
			return keys, fmt.Errorf("line %d is shorter than %d characters; make a key with: openssl rand -hex %d", i+1, leaseKeySize, leaseKeySize)
		}
	}
	keys.signing = []byte(lines[0])
	if len(lines) == 2 {
		keys.former = []byte(lines[1])
	}
	return keys, nil
}
