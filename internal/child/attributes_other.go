//go:build !linux

package child

import "syscall"

// attributes: elsewhere nothing ties a child to its parent, so it survives one that is killed.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
