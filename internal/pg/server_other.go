//go:build unix && !linux

package pg

import "syscall"

// dieWithParent does nothing where the kernel offers no death signal. A server whose
// parent was killed runs on, and the next Start finds and uses it.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
