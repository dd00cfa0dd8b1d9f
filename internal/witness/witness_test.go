package witness

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/receipt"
)

// testLog is a log of random entries that is not stored anywhere.
type testLog struct {
	signer   note.Signer
	verifier receipt.Key
	hashes   []tlog.Hash
}

func newLog(t *testing.T, origin string) *testLog {
	t.Helper()
	private, public, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	l := &testLog{}
	var err2 error
	l.signer, err = note.NewSigner(private)
	l.verifier, err2 = receipt.ParseKey(public)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *testLog) ReadHashes(indexes []int64) (hashes []tlog.Hash, err error) {
	for _, i := range indexes {
		hashes = append(hashes, l.hashes[i])
	}
	return hashes, nil
}

// grow adds entries up to a size. Logs with different salts have different entries.
func (l *testLog) grow(t *testing.T, size int64, salt byte) {
	t.Helper()
	for n := int64(0); tlog.StoredHashCount(n) <= int64(len(l.hashes)) && n < size; n++ {
		if tlog.StoredHashCount(n) < int64(len(l.hashes)) {
			continue
		}
		more, err := tlog.StoredHashes(n, binary.BigEndian.AppendUint64([]byte{salt}, uint64(n)), l)
		if err != nil {
			t.Fatal(err)
		}
		l.hashes = append(l.hashes, more...)
	}
}

// submission returns the body of a request with a proof from the old size.
func (l *testLog) submission(t *testing.T, old, size int64) string {
	t.Helper()
	root, err := tlog.TreeHash(size, l)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: receipt.Checkpoint{Origin: l.signer.Name(), Size: size, Root: root}.Text()}, l.signer)
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf("old %d\n", old)
	if old > 0 && old <= size {
		proof, err := tlog.ProveTree(size, old, l)
		if err != nil {
			t.Fatal(err)
		}
		for _, hash := range proof {
			body += hash.String() + "\n"
		}
	}
	return body + "\n" + string(signed)
}

// server is a witness with a server.
type server struct {
	*httptest.Server
	t       *testing.T
	witness *Witness
}

func newServer(t *testing.T, path string, logs ...*testLog) *server {
	t.Helper()
	var keys receipt.Keys
	for _, l := range logs {
		keys = append(keys, l.verifier)
	}
	cosigner := receipt.NewCosigner("witness.example", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, 32)), time.Now)
	w, err := Open(cosigner, keys, path)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{httptest.NewServer(w.Handler(slog.New(slog.DiscardHandler))), t, w}
	t.Cleanup(s.stop)
	return s
}

func (s *server) stop() {
	s.Close()
	_ = s.witness.Close() // the second call of a test returns an error
}

// post submits a checkpoint, and returns the status and the body of the answer.
func (s *server) post(body string) (status int, answer string) {
	s.t.Helper()
	resp, err := http.Post(s.URL+"/add-checkpoint", "", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode == http.StatusConflict && resp.Header.Get("Content-Type") != "text/x.tlog.size" {
		s.t.Errorf("a conflict has the type %q", resp.Header.Get("Content-Type"))
	}
	return resp.StatusCode, string(read)
}

// mustCosign expects a valid cosignature of the submission's checkpoint.
func (s *server) mustCosign(body string) {
	s.t.Helper()
	status, lines := s.post(body)
	_, signed, _ := strings.Cut(body, "\n\n")
	text, _, err := receipt.CutSignatures(signed)
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := note.Open([]byte(text+"\n"+lines), note.VerifierList(s.witness.cosigner))
	if err != nil || status != http.StatusOK {
		s.t.Fatalf("%d %q, %v, want a cosignature", status, lines, err)
	}
	if at, err := receipt.CosignatureTime(n.Sigs[0]); err != nil || time.Since(at).Abs() > time.Minute {
		s.t.Errorf("cosigned at %v, %v", at, err)
	}
}

func (s *server) mustRefuse(what, body string, status int, answer string) {
	s.t.Helper()
	if got, text := s.post(body); got != status || answer != "" && text != answer {
		s.t.Errorf("%s: %d %q, want %d %q", what, got, text, status, answer)
	}
}

// TestWitnessFollowsAGrowingLog submits the checkpoints of two logs, restarts the witness, and
// submits checkpoints that the witness must refuse.
func TestWitnessFollowsAGrowingLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	a, b, unknown := newLog(t, "a.example/log"), newLog(t, "b.example/log"), newLog(t, "c.example/log")
	fork, impostor := newLog(t, "a.example/log"), newLog(t, "a.example/log")
	fork.signer = a.signer
	for _, l := range []*testLog{a, b, unknown, impostor} {
		l.grow(t, 40, 'x')
	}
	fork.grow(t, 40, 'y')
	s := newServer(t, path, a, b)
	s.mustRefuse("a first checkpoint with an old size", a.submission(t, 5, 10), http.StatusConflict, "0\n")
	s.mustRefuse("a first checkpoint with a proof", strings.Replace(a.submission(t, 5, 10), "old 5", "old 0", 1), http.StatusUnprocessableEntity, "")
	s.mustCosign(a.submission(t, 0, 10))
	s.mustCosign(a.submission(t, 10, 10))
	s.mustCosign(b.submission(t, 0, 3))
	s.mustCosign(a.submission(t, 10, 17))

	s.stop()
	s = newServer(t, path, a, b) // what it has seen must survive
	s.mustRefuse("an old size of before", a.submission(t, 10, 20), http.StatusConflict, "17\n")
	s.mustRefuse("a smaller log", a.submission(t, 0, 12), http.StatusConflict, "17\n")
	s.mustRefuse("an old size after the checkpoint's", a.submission(t, 17, 12), http.StatusBadRequest, "")
	s.mustRefuse("other entries", fork.submission(t, 17, 20), http.StatusUnprocessableEntity, "")
	s.mustRefuse("other entries of the same size", fork.submission(t, 17, 17), http.StatusConflict, "17\n")
	s.mustRefuse("an unknown log", unknown.submission(t, 0, 5), http.StatusNotFound, "")
	s.mustRefuse("another key", impostor.submission(t, 17, 20), http.StatusForbidden, "")
	valid := a.submission(t, 17, 40)
	s.mustRefuse("a changed signature", valid[:len(valid)-8]+"AAAAAA=\n", http.StatusForbidden, "")
	s.mustRefuse("a log without end", strings.Replace(valid, "\n40\n", "\n9223372036854775807\n", 1), http.StatusBadRequest, "")
	s.mustRefuse("no proof", withoutProof(valid), http.StatusUnprocessableEntity, "")
	s.mustCosign(valid)
	s.mustCosign(b.submission(t, 3, 40))
}

// withoutProof returns a submission without its proof.
func withoutProof(body string) string {
	head, signed, _ := strings.Cut(body, "\n\n")
	old, _, _ := strings.Cut(head, "\n")
	return old + "\n\n" + signed
}

// TestConcurrentSubmissionsNeverGoBack submits the checkpoints of a log in any order.
func TestConcurrentSubmissionsNeverGoBack(t *testing.T) {
	t.Parallel()
	l := newLog(t, "a.example/log")
	l.grow(t, 64, 'x')
	s := newServer(t, filepath.Join(t.TempDir(), "state"), l)
	s.mustCosign(l.submission(t, 0, 1))
	var mu sync.Mutex
	cosigned := map[int64]int64{} // old sizes by new sizes
	var all sync.WaitGroup
	for size := int64(2); size <= 64; size++ {
		all.Go(func() {
			for old := int64(1); old < size; {
				status, answer := s.post(l.submission(t, old, size))
				if status == http.StatusOK {
					mu.Lock()
					defer mu.Unlock()
					cosigned[size] = old
					return
				}
				if _, err := fmt.Sscan(answer, &old); err != nil || status != http.StatusConflict {
					t.Errorf("%d %q", status, answer)
					return
				}
			}
		})
	}
	all.Wait()
	size := int64(64)
	for size > 1 { // the cosigned checkpoints must be one chain
		old, ok := cosigned[size]
		if !ok {
			t.Fatalf("the chain of checkpoints ends at %d: %v", size, cosigned)
		}
		delete(cosigned, size)
		size = old
	}
	if len(cosigned) > 0 {
		t.Errorf("checkpoints outside the chain: %v", cosigned)
	}
}

// TestWitnessNeedsItsState opens damaged and locked state files.
func TestWitnessNeedsItsState(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	for _, content := range []string{"", "{", `{"a":"b"}`, `{"a":"b\n1\nAAAA\n"}`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(receipt.Cosigner{}, nil, path); err == nil {
			t.Errorf("%q is taken as a state", content)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w, err := Open(receipt.Cosigner{}, nil, path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := Open(receipt.Cosigner{}, nil, path); err == nil {
		t.Error("two witnesses have one state file")
	}
}

// TestFullDiskCosignsNothing lets a record fail. The witness must not cosign, and must go on
// from what it has recorded.
func TestFullDiskCosignsNothing(t *testing.T) {
	t.Parallel()
	l := newLog(t, "a.example/log")
	l.grow(t, 10, 'x')
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, filepath.Join(dir, "state"), l)
	s.mustCosign(l.submission(t, 0, 2))
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	s.mustRefuse("without a directory", l.submission(t, 2, 5), http.StatusInternalServerError, "the witness has failed\n")
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	s.mustCosign(l.submission(t, 2, 4))
}

func TestKeyFileIsCreatedOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	if _, err := LoadKey(path, ""); err == nil {
		t.Error("a key without a name")
	}
	made, err := LoadKey(path, "witness.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "witness.example"} {
		if read, err := LoadKey(path, name); err != nil || read.String() != made.String() {
			t.Errorf("%v, %v, want %v", read, err, made)
		}
	}
	if _, err := LoadKey(path, "other.example"); err == nil {
		t.Error("the key has another name")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", string(text[1:]), strings.Replace(string(text), "witness", "w1tness", 1), string(text[:len(text)-3])} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKey(path, ""); err == nil {
			t.Errorf("%q is taken as a key", bad)
		}
	}
}

func FuzzSubmission(f *testing.F) {
	f.Add("old 0\n\nlog.example\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— log.example AAAAAAAA\n")
	f.Add("old 1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n")
	f.Fuzz(func(t *testing.T, body string) {
		s, err := parseSubmission(body)
		if err != nil {
			return
		}
		again := fmt.Sprintf("old %d\n", s.old)
		for _, hash := range s.proof {
			again += hash.String() + "\n"
		}
		if again+"\n"+s.signed != body {
			t.Errorf("%q is read as %+v", body, s)
		}
	})
}
