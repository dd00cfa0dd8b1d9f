package processes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"colophon/events/receipt"
	"colophon/test/browser"
	"colophon/test/program/programtest"
)

// TestReceiptOfAContinuedJobIsProvenByAllVerifiers kills the worker of a marked job with
// SIGKILL, so that another worker continues the job. The two workers share the signer's state file. The
// receipt must be proven by the command, by the package, by the Python program and by the page in a
// browser, and a changed one by none of them. A replay must give the recorded text.
func TestReceiptOfAContinuedJobIsProvenByAllVerifiers(t *testing.T) {
	slow(t)
	t.Parallel()
	m := newMembers(t)
	dir := t.TempDir()
	server := m.api("--no-rate-limits")
	c := newUser(t, server.URL, "reader")
	state := filepath.Join(dir, "log-state")
	workers := []*programtest.Process{m.worker("--log-state", state), m.worker("--log-state", state)}
	var id string
	for seed, continued := 0, false; !continued; seed++ {
		id = c.Submit(marked(long(seed)))
		events := c.watch(id)
		first := next(t, events, started)
		next(t, events, advanced)
		holder := slices.IndexFunc(workers, func(p *programtest.Process) bool { return p.Worker == first.Worker })
		workers[holder].Kill()
		second := next(t, events, func(e event) bool { return started(e) || e.Type == "job.completed" })
		continued = second.Type != "job.completed" && second.Worker != first.Worker
		workers[holder] = m.worker("--log-state", state)
	}
	text := c.end(id).Completion
	signed := c.Do("GET", "/jobs/"+id+"/receipt", "").Must(t, 200).Body
	vkey := c.Do("GET", "/log/key", "").Must(t, 200).Body

	keys, err := receipt.ParseKeys(string(vkey))
	if err != nil {
		t.Fatal(err)
	}
	r, err := receipt.Verify(signed, keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := r.Text(); !ok || got != text {
		t.Errorf("the receipt has the text %q, want %q", got, text)
	}
	starts := 0
	for _, e := range r.Events {
		if e.Type == "job.started" {
			starts++
		}
	}
	if starts < 2 {
		t.Errorf("the receipt has %d starts, want 2", starts)
	}
	if out, log, status := programtest.Run(t, m.settings, "", "replay", id); status != 0 || !strings.Contains(out, "Proven: the model gives the recorded tokens") {
		t.Errorf("replay: status %d, %s%s", status, out, log)
	}

	file := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	changed := []byte(strings.Replace(string(signed), r.Job, strings.Replace(r.Job, "-7", "-6", 1), 1))
	key := file("log.key", vkey)
	verifiers := map[string]func(t *testing.T, path string) (status int, output string){
		"command": func(t *testing.T, path string) (int, string) {
			out, errOut, status := programtest.Run(t, nil, "", "verify", path, "--key", key)
			return status, out + errOut
		},
		"Python": func(t *testing.T, path string) (int, string) {
			for _, name := range []string{"python3", "openssl"} {
				if _, err := exec.LookPath(name); err != nil {
					t.Skip(name + " is missing: install it to test the Python verifier")
				}
			}
			cmd := exec.CommandContext(t.Context(), "python3", "../../examples/verify.py", path, "--key", key)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState == nil {
				t.Fatal(err)
			}
			return cmd.ProcessState.ExitCode(), string(out)
		},
		"browser": func(t *testing.T, path string) (int, string) { return verifyInBrowser(t, server.URL, path, key) },
	}
	for name, verify := range verifiers {
		t.Run(name, func(t *testing.T) {
			if status, out := verify(t, file(name+".json", signed)); status != 0 || !strings.Contains(out, "Proven") || !strings.Contains(out, id) {
				t.Errorf("status %d: %s", status, out)
			}
			if status, out := verify(t, file(name+"-changed.json", changed)); status != 1 {
				t.Errorf("changed: status %d: %s", status, out)
			}
		})
	}
}

// verifyInBrowser verifies a receipt on the page /verify. The page must request nothing
// meanwhile.
func verifyInBrowser(t *testing.T, url, path, key string) (status int, output string) {
	t.Helper()
	b := browser.New(t)
	b.Do("open the page", chromedp.Navigate(url+"/verify"), chromedp.WaitVisible(chromedp.CSS("#check")))
	requested := len(b.Requests())
	b.Do("verify the files",
		chromedp.SetUploadFiles(chromedp.CSS("#receipt"), []string{path}),
		chromedp.SetUploadFiles(chromedp.CSS("#key-file"), []string{key}),
		chromedp.Click(chromedp.CSS("#check")),
		chromedp.WaitVisible(chromedp.CSS("#verdict")),
	)
	b.Show("verdict")
	output = browser.Read(b, "read the verdict", chromedp.Text(chromedp.CSS("#verdict")))
	if all := b.Requests(); len(all) != requested {
		t.Errorf("the page requested %q", all[requested:])
	}
	if errors := b.Reported(); len(errors) > 0 {
		t.Errorf("the page reports %q", errors)
	}
	for i, word := range []string{"Proven", "Refuted", "Cannot tell"} {
		if strings.Contains(output, word) {
			return i, output
		}
	}
	return -1, fmt.Sprintf("no verdict: %q", output)
}
