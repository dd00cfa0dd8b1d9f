package program

import "syscall"

// dieWithParent makes the kernel kill the process when the thread that started the
// process ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// awaitStop blocks until all threads of a child process have stopped, or until the
// process has ended. It is needed because a stop signal takes effect some time after it
// is sent. With WNOWAIT, a later wait can still see the state of the child.
func awaitStop(pid int) {
	const byPID = 1 // P_PID, which package syscall lacks
	for {
		_, _, err := syscall.Syscall6(syscall.SYS_WAITID, byPID, uintptr(pid), 0, syscall.WSTOPPED|syscall.WNOWAIT, 0, 0)
		if err != syscall.EINTR {
			return
		}
	}
}
