package standalone

import "syscall"

// childAttributes let no Envoy outlive this process, however it ends.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
