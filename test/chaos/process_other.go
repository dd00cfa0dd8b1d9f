//go:build unix && !linux

package chaos

import "syscall"

// dieWithParent does nothing where the kernel has no such service: there,
// processes outlive a harness that is killed.
func dieWithParent(*syscall.SysProcAttr) {}
