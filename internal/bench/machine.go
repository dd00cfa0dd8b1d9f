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

// cpuName returns the processor's name, or the architecture if it is unknown.
func cpuName() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // the file exists only on Linux
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// Memory fields of /proc/PID/status.
const (
	peakMemory    = "VmHWM:"
	currentMemory = "VmRSS:"
)

// memoryOf returns a field of a process's memory, in 1e6 bytes. It returns 0 if the
// system has no such field.
func memoryOf(pid int, field string) float64 {
	status, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status")) // the file exists only on Linux
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(field)); ok {
			kib, _ := strconv.ParseFloat(string(bytes.Fields(rest)[0]), 64)
			return kib * 1024 / 1e6
		}
	}
	return 0
}

// processorTime holds the busy time and the total time, each summed over all
// processors.
type processorTime struct{ busy, all time.Duration }

// readProcessorTime returns the processor time since the start of the system. It
// returns zero if the system does not count processor time.
func readProcessorTime() (t processorTime) {
	stat, _ := os.ReadFile("/proc/stat") // the file exists only on Linux
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(strings.TrimPrefix(line, "cpu")) {
		const idle, wait, guest = 3, 4, 8
		n, _ := strconv.ParseInt(field, 10, 64)
		took := time.Duration(n) * (time.Second / 100)
		if i >= guest { // stop here, because the guest times are already part of the user time
			break
		}
		t.all += took
		if i != idle && i != wait {
			t.busy += took
		}
	}
	return t
}

// minus returns the processor time from reading u to reading t. The system's count of
// time spent waiting for I/O may decrease. So minus returns a total time that is at least
// the busy time.
func (t processorTime) minus(u processorTime) processorTime {
	busy := t.busy - u.busy
	return processorTime{busy, max(t.all-u.all, busy)}
}

// share returns the share of busy time, from 0 to 1.
func (t processorTime) share() float64 {
	if t.all <= 0 {
		return 0
	}
	return max(0, float64(t.busy)/float64(t.all))
}
