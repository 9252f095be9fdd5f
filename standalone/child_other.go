//go:build !linux

package standalone

import "syscall"

// childAttributes: elsewhere nothing ties a child to its parent, so an Envoy survives a parent that is killed.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
