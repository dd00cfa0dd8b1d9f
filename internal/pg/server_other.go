//go:build unix && !linux

package pg

import "syscall"

// dieWithParent does nothing on systems whose kernel offers no death signal. If the
// parent is killed, the server keeps running. The next Start finds and uses that
// server.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
