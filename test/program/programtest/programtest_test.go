package programtest_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"colophon/test/program"
	"colophon/test/program/programtest"
)

func TestMain(m *testing.M) { programtest.Main(m) }

func TestProcessServesFreezesAndStops(t *testing.T) {
	t.Parallel()
	db := programtest.Database(t)
	p := programtest.Start(t, []string{"DATABASE_URL=" + db.URL, "COLOPHON_DATA=" + t.TempDir()}, "api", "--listen", "127.0.0.1:0")
	checkHealth := func(within time.Duration) error {
		client := http.Client{Timeout: within}
		resp, err := client.Get(p.URL + "/healthz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
	if err := checkHealth(programtest.Patience); err != nil {
		t.Fatal(err)
	}
	p.Freeze()
	p.Freeze() // must return at once, because the process is already frozen
	if checkHealth(50*time.Millisecond) == nil {
		t.Error("a frozen process answers")
	}
	p.Thaw()
	if err := checkHealth(programtest.Patience); err != nil {
		t.Error(err)
	}
	if !p.Running() {
		t.Error("the running process is reported as ended")
	}
	p.Stop()
	if p.Running() || p.ExitCode() != 0 || p.Err() != nil {
		t.Errorf("exit status %d, %v", p.ExitCode(), p.Err())
	}
	if log := p.Await("stopping"); log != p.Log() || !strings.Contains(log, "ready "+p.URL) {
		t.Errorf("log %q", log)
	}
}

func TestStartReadsTheNameOfAWorker(t *testing.T) {
	t.Parallel()
	db := programtest.Database(t)
	p := programtest.Start(t, []string{"DATABASE_URL=" + db.URL, "COLOPHON_DATA=" + t.TempDir()}, "worker")
	if p.Worker == "" || p.URL != "" {
		t.Errorf("worker %q, URL %q", p.Worker, p.URL)
	}
	p.Kill()
	if p.ExitCode() != -1 || p.Running() {
		t.Errorf("exit status %d after a kill", p.ExitCode())
	}
}

func TestReadyFailsIfTheProcessEndsFirst(t *testing.T) {
	t.Parallel()
	var log program.Log
	p, err := program.Start(&log, nil, programtest.Path(t), "up", "--limit-jobs", "none")
	if err != nil {
		t.Fatal(err)
	}
	if at, err := p.Ready(t.Context()); err == nil {
		t.Errorf("ready at %q", at)
	}
	if p.ExitCode() != 2 || !strings.Contains(log.String(), "--limit-jobs") {
		t.Errorf("exit status %d: %s", p.ExitCode(), log.String())
	}
}

func TestCommandSeesOnlyGivenSettings(t *testing.T) {
	t.Setenv("COLOPHON_LOG_LEVEL", "none of the levels")
	ids, log, code := programtest.Run(t, nil, "Light", "model", "tokenize")
	if code != 0 || log != "" {
		t.Errorf("%q, %q, exit status %d", ids, log, code)
	}
	if text, _, _ := programtest.Run(t, nil, ids, "model", "tokenize", "--decode"); text != "Light" {
		t.Errorf("%s decodes to %q", ids, text)
	}
	if _, _, code := programtest.Run(t, []string{"COLOPHON_LOG_LEVEL=none"}, "Light", "model", "tokenize"); code != 2 {
		t.Errorf("exit status %d with an invalid setting", code)
	}
}

// TestProcessDiesWithItsParent kills a copy of this test binary that has started a
// process. The process must end too.
func TestProcessDiesWithItsParent(t *testing.T) {
	if os.Getenv("PROGRAMTEST_PARENT") != "" {
		p := programtest.Start(t, []string{"DATABASE_URL=" + os.Getenv("PROGRAMTEST_DATABASE"), "COLOPHON_DATA=" + t.TempDir()}, "api", "--listen", "127.0.0.1:0")
		fmt.Println("\nchild", p.URL)
		select {}
	}
	if runtime.GOOS != "linux" {
		t.Skip("only Linux kills processes with their parents")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.CommandContext(t.Context(), exe, "-test.run=^TestProcessDiesWithItsParent$")
	parent.Env = append(os.Environ(), "PROGRAMTEST_PARENT=1", "PROGRAMTEST_DATABASE="+programtest.Database(t).URL, program.Variable+"="+programtest.Path(t))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	address := ""
	for lines := bufio.NewScanner(out); address == "" && lines.Scan(); {
		_, address, _ = strings.Cut(lines.Text(), "child http://")
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = parent.Process.Kill()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second)) // the service itself waits longer for a request
	if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the process outlived its parent")
	}
	_ = parent.Wait()
}
