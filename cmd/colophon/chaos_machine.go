//go:build chaos

package main

import (
	"os"
	"runtime"
	"strings"
)

// A table is rows of cells under a header.
type table [][]string

// cpuName returns the system's name of the processor. Without one it returns the
// architecture.
func cpuName() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // on Linux
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
