package interop

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/receipt"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// TestTorchwoodVerifiesProofsOfJobs runs a job while a witness cosigns the log. Torchwood must
// verify the job's proof with the policy that the service has, and refuse changed ones.
func TestTorchwoodVerifiesProofsOfJobs(t *testing.T) {
	t.Parallel()
	s := start(t)
	vkey, _ := s.key(t)
	s.Stop()
	dir := t.TempDir()
	w := programtest.Start(t, nil, "witness", "--listen", "127.0.0.1:0", "--log", file(t, vkey+"\n"),
		"--key", filepath.Join(dir, "witness.key"), "--name", "witness.example", "--state", filepath.Join(dir, "witness.state"))
	witness, _, _ := strings.Cut(w.Log(), "\n")
	text := fmt.Sprintf("log %s %s\nwitness w %s %s\ngroup all-of-them all w\nquorum all-of-them\n", vkey, "http://log.invalid/log", witness, w.URL)
	s.restart(t, "--log-witnesses", file(t, text))

	c := apitest.NewUser(t, s.URL, "reader")
	id := c.Submit(`{"prompt":"The nature of light","max_new_tokens":10}`)
	var job struct{ State string }
	programtest.Eventually(t, "the job has ended", func() bool {
		c.Do("GET", "/jobs/"+id, "").Must(t, 200).Into(t, &job)
		return job.State == "completed"
	})
	policy, err := torchwood.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := receipt.ParsePolicy(text)
	if err != nil {
		t.Fatal(err)
	}
	// A checkpoint is published without a witness that has not answered in time, and again
	// when it has.
	var signed []byte
	var leaf tlog.Hash
	programtest.Eventually(t, "torchwood has verified a proof with a cosignature", func() bool {
		answer := c.Do("GET", "/jobs/"+id+"/receipt?format=tlog-proof", "")
		if answer.Status == 503 {
			return false
		}
		signed = answer.Must(t, 200).Body
		var r struct {
			Events     []string
			Checkpoint string
		}
		full := c.Do("GET", "/jobs/"+id+"/receipt", "").Must(t, 200)
		full.Into(t, &r)
		payload, err := base64.StdEncoding.DecodeString(r.Events[len(r.Events)-1])
		if err != nil {
			t.Fatal(err)
		}
		entry := sha256.Sum256(payload)
		leaf = tlog.RecordHash(entry[:])
		err = torchwood.VerifyProof(policy, leaf, signed)
		if _, unverified := errors.AsType[*note.UnverifiedNoteError](err); err != nil && !unverified {
			t.Fatalf("torchwood: %v\n%s", err, signed)
		}
		if err != nil {
			return false
		}
		report, err := receipt.Verify(full.Body, nil, ours)
		if err != nil || len(report.Cosigned) != 1 {
			t.Fatalf("our verifier differs from torchwood: %v, %+v", err, report)
		}
		return true
	})

	// Torchwood reads the time of the cosignature.
	_, note, err := torchwood.VerifyCheckpoint([]byte(s.get(t, "/log/checkpoint")), policy)
	if err != nil {
		t.Fatal(err)
	}
	for _, signature := range note.Sigs {
		if signature.Name != "witness.example" {
			continue
		}
		if at, err := torchwood.CosignatureTimestamp(signature); err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Hour {
			t.Errorf("the cosignature is of %v, %v", time.Unix(at, 0), err)
		}
	}

	other, err := torchwood.NewCosignatureSigner("witness.example", ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]struct {
		policy string
		leaf   tlog.Hash
		proof  string
	}{
		"another entry":     {text, tlog.RecordHash([]byte("another")), string(signed)},
		"another index":     {text, leaf, strings.Replace(string(signed), "\nindex ", "\nindex 1", 1)},
		"another root":      {text, leaf, changeLine(t, string(signed), origin, 2)},
		"a changed hash":    {text, leaf, changeLine(t, string(signed), "index ", 1)},
		"another witness":   {strings.Replace(text, witness, other.Verifier().String(), 1), leaf, string(signed)},
		"no cosignature":    {text, leaf, withoutLine(t, string(signed), "— witness.example ")},
		"no log signature":  {text, leaf, withoutLine(t, string(signed), "— "+origin+" ")},
		"no proof":          {text, leaf, "c2sp.org/tlog-proof@v1\n"},
		"another log's key": {strings.Replace(text, "log "+vkey, "log "+otherKey(t), 1), leaf, string(signed)},
	} {
		p, err := torchwood.ParsePolicy([]byte(k.policy))
		if err != nil {
			t.Fatal(err)
		}
		if err := torchwood.VerifyProof(p, k.leaf, []byte(k.proof)); err == nil {
			t.Errorf("%s: torchwood verifies it", name)
		}
	}
}

// otherKey returns the key of another log of the same name.
func otherKey(t *testing.T) string {
	t.Helper()
	_, vkey, err := note.GenerateKey(nil, origin)
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

// changeLine changes the first letter of the n-th line after the one that has a prefix.
func changeLine(t *testing.T, text, prefix string, n int) string {
	t.Helper()
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, prefix) {
			first := byte('A')
			if lines[i+n][0] == first {
				first = 'B'
			}
			lines[i+n] = string(first) + lines[i+n][1:]
			return strings.Join(lines, "")
		}
	}
	t.Fatalf("no line begins with %q", prefix)
	return ""
}

// withoutLine removes the line with a prefix.
func withoutLine(t *testing.T, text, prefix string) string {
	t.Helper()
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, prefix) {
			return strings.Join(append(lines[:i:i], lines[i+1:]...), "")
		}
	}
	t.Fatalf("no line begins with %q", prefix)
	return ""
}
