//go:build !linux

package servers

import "syscall"

// childAttributes keep Ctrl-C in a terminal from children: they are stopped in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
