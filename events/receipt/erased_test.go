package receipt

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goldenStreams returns streams with the event job.erased or with a watermark, by the name of
// a file in testdata. The receipts of those whose names begin with "refuted" must be refuted.
func goldenStreams() map[string][]testEvent {
	erased := testEvent{typeErased, map[string]any{"by": "owner", "completion_tokens": 4}, nil}
	failed := testEvent{"job.failed", map[string]any{"attempt": 1, "reason": "r", "final": false}, nil}
	whole := life()
	end := whole[len(whole)-1]
	running := whole[:len(whole)-1]
	marked := life()
	marked[0].clear["watermark"] = map[string]any{"key": "020ca29fff479ebe", "parameters": "gumbel-h3-s8/1"}
	return map[string][]testEvent{
		"marked":                    marked,
		"erased":                    append(life(), erased),
		"refuted-erased-twice":      append(life(), erased, erased),
		"refuted-erased-early":      slices.Concat(running, []testEvent{erased}),
		"refuted-erased-then-ended": slices.Concat(running, []testEvent{erased, end}),
		"refuted-erased-in-a-retry": slices.Concat(running, []testEvent{failed, erased}),
		"refuted-ended-twice":       append(life(), end),
	}
}

// TestGoldenReceipts compares receipts of erased and of marked jobs with the files that the
// verifiers in other languages are tested with, and verifies them.
func TestGoldenReceipts(t *testing.T) {
	t.Parallel()
	for name, stream := range goldenStreams() {
		m := newReceipt(t, stream)
		text, err := json.MarshalIndent(m.Receipt, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if stored, err := os.ReadFile(path); err != nil || string(stored) != string(text)+"\n" {
			t.Errorf("%s differs, %v: run the test with -update if that is intended", path, err)
		}
		want := "proven"
		if strings.HasPrefix(name, "refuted") {
			want = "refuted"
		}
		r, err := Verify(text, m.keys, nil)
		if verdict(err) != want || want == "proven" && r.Erased() != (name == "erased") {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
		if w, ok := r.Watermark(); ok != (name == "marked") || ok && w != (Watermark{"020ca29fff479ebe", "gumbel-h3-s8/1"}) {
			t.Errorf("%s has the watermark %+v, %v", name, w, ok)
		}
	}
}

// TestReceiptBeforeAnErasureStaysValid verifies a receipt that was issued before its job was
// erased, against the log after that. The openings still prove the text that the service no
// longer has.
func TestReceiptBeforeAnErasureStaysValid(t *testing.T) {
	t.Parallel()
	m := newReceipt(t, append(life(), testEvent{typeErased, map[string]any{"by": "retention", "completion_tokens": 4}, nil}), "prompt", "text")
	for _, events := range []int{len(m.Events) - 1, len(m.Events)} {
		before := *m.Receipt
		before.Events, before.Proofs = m.Events[:events], map[int]Inclusion{}
		m.Receipt.Proofs = before.Proofs
		m.prove(events, int64(2*events-1))
		text, err := json.Marshal(before)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Verify(text, m.keys, nil)
		if err != nil || r.Erased() != (events == len(m.Events)) {
			t.Fatalf("%d events: %v", events, err)
		}
		if generated, ok := r.Text(); !ok || generated != ", I placed “a Prism”\n" {
			t.Errorf("%d events: %q", events, generated)
		}
	}
}

// TestPythonVerifierAgrees runs examples/verify.py with the files in testdata.
func TestPythonVerifierAgrees(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"python3", "openssl"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(name + " is missing: install it to test the Python verifier")
		}
	}
	names := []string{"receipt"}
	for name := range goldenStreams() {
		names = append(names, name)
	}
	for _, name := range names {
		want := 0
		if strings.HasPrefix(name, "refuted") {
			want = 1
		}
		cmd := exec.CommandContext(t.Context(), "python3", "../../examples/verify.py", "testdata/"+name+".json", "--key", "testdata/log.key")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if status := cmd.ProcessState.ExitCode(); status != want {
			t.Errorf("%s: status %d, want %d: %s", name, status, want, out)
		}
		if says := strings.Contains(string(out), "watermark: key 020ca29fff479ebe, gumbel-h3-s8/1"); says != (name == "marked") {
			t.Errorf("%s: %s", name, out)
		}
	}
}
