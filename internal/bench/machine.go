package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// goVersion returns the toolchain and the platform.
func goVersion() string {
	return fmt.Sprintf("%s %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

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

// The figures of a process's memory that the system keeps.
const (
	peakMemory    = "VmHWM:"
	currentMemory = "VmRSS:"
)

// memoryOf returns a figure of a process's memory in 1e6 bytes. It returns 0
// where the system has no such figure.
func memoryOf(pid int, figure string) float64 {
	status, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status")) // on Linux
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(figure)); ok {
			kib, _ := strconv.ParseFloat(string(bytes.Fields(rest)[0]), 64)
			return kib * 1024 / 1e6
		}
	}
	return 0
}

// processorTime is the time of all processors together.
type processorTime struct{ busy, all time.Duration }

// processors returns the time since the system started. It returns zero where
// the system does not count it.
func processors() (t processorTime) {
	stat, _ := os.ReadFile("/proc/stat") // on Linux
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(strings.TrimPrefix(line, "cpu")) {
		const idle, wait, guest = 3, 4, 8
		n, _ := strconv.ParseInt(field, 10, 64)
		took := time.Duration(n) * (time.Second / 100)
		if i >= guest { // user time includes it
			break
		}
		t.all += took
		if i != idle && i != wait {
			t.busy += took
		}
	}
	return t
}

func (t processorTime) minus(u processorTime) processorTime {
	return processorTime{t.busy - u.busy, t.all - u.all}
}

// share returns the busy share, from 0 to 1.
func (t processorTime) share() float64 {
	if t.all <= 0 {
		return 0
	}
	return max(0, float64(t.busy)/float64(t.all))
}
