//go:build unix && !linux

package program

import "syscall"

// dieWithParent does nothing: package syscall has no parent-death signal here, so
// processes outlive a killed parent.
func dieWithParent(*syscall.SysProcAttr) {}

func awaitStop(int) {}
