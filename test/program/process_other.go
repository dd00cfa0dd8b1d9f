//go:build unix && !linux

package program

import "syscall"

// dieWithParent does nothing: without such a service of the kernel, processes
// outlive a harness that is killed.
func dieWithParent(*syscall.SysProcAttr) {}

func awaitStop(int) {}
