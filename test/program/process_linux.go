package program

import "syscall"

// dieWithParent makes the kernel kill the process when the thread that starts it ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// awaitStop blocks until all threads of a child process have stopped, or it has ended: a
// stop signal takes effect some time after it is sent. Other waits still see the state.
func awaitStop(pid int) {
	const byPID = 1 // P_PID, missing in package syscall
	for {
		_, _, err := syscall.Syscall6(syscall.SYS_WAITID, byPID, uintptr(pid), 0, syscall.WSTOPPED|syscall.WNOWAIT, 0, 0)
		if err != syscall.EINTR {
			return
		}
	}
}
