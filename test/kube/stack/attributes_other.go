//go:build !linux

package stack

import "syscall"

// childAttributes: elsewhere nothing ties a child to its parent.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
