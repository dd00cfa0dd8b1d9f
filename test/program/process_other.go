//go:build unix && !linux

package program

import "syscall"

// dieWithParent does nothing, because package syscall has no parent-death signal here. A
// process therefore outlives a killed parent.
func dieWithParent(*syscall.SysProcAttr) {}

func awaitStop(int) {}
