package servers

import "syscall"

// childAttributes let nothing outlive this process, however it ends, and keep Ctrl-C in a terminal from it: it is stopped in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
