package child

import (
	"fmt"
	"os"
	"syscall"
)

// WriteScript writes a program of text that can be run at once: no child that is started meanwhile has the file open for writing, for
// which it could not be run before that child is a program of its own (ETXTBSY).
func WriteScript(path, text string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil { //nolint:gosec // It is to be run.
		return fmt.Errorf("writing a script: %w", err)
	}
	return nil
}
