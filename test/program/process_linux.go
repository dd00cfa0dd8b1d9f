package program

import "syscall"

// dieWithParent has the kernel kill the process when the thread that starts it ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// awaitStop blocks until all threads of a child process have stopped, or it has
// ended: a signal to stop takes effect some time after it was sent. It leaves all
// states to be waited for.
func awaitStop(pid int) {
	const byPID = 1 // P_PID, which package syscall does not name
	for {
		_, _, err := syscall.Syscall6(syscall.SYS_WAITID, byPID, uintptr(pid), 0, syscall.WSTOPPED|syscall.WNOWAIT, 0, 0)
		if err != syscall.EINTR {
			return
		}
	}
}
