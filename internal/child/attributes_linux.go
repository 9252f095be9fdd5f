package child

import "syscall"

// attributes let nothing outlive this process, however it ends, and keep Ctrl-C in a terminal from it: it is stopped in order.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
