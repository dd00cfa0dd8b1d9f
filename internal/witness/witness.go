// Package witness cosigns the checkpoints of transparency logs (c2sp.org/tlog-witness).
//
// A [Witness] remembers the last checkpoint of each log that it knows. It cosigns a
// checkpoint only if a proof shows that the log still begins with the tree that it has seen
// before. Callers may rely on these properties:
//
//   - Order. The sizes of the checkpoints that a witness cosigns never decrease for a log.
//   - Durability. A checkpoint is in the state file before its cosignature is sent. A witness
//     that crashes at any point cosigns nothing that contradicts what it has sent.
//   - Concurrency. Any number of requests may run. They are checked one after another. One
//     process at a time can have a state file.
package witness

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/receipt"
	"colophon/internal/datadir"
)

var (
	errUnknownLog = errors.New("the witness does not know this log")
	errSignature  = errors.New("no key of the log that the witness knows has signed the checkpoint")
	errProof      = errors.New("the proof does not show that the log continues what the witness has seen")
	errOldSize    = errors.New("the old size is greater than the size of the checkpoint")
)

// conflict is the error for an old size that is not the size that the witness has seen.
type conflict struct{ seen int64 }

func (c conflict) Error() string {
	return fmt.Sprintf("the witness has seen a log of %d events", c.seen)
}

// Witness cosigns the checkpoints of some logs. It is safe for concurrent use.
type Witness struct {
	cosigner receipt.Cosigner
	logs     map[string]receipt.Keys // keys by origin
	path     string                  // state file
	lock     *os.File

	mu   sync.Mutex
	seen map[string]receipt.Checkpoint // by origin
}

// Open returns a witness of the logs that have the given keys. It reads the state file,
// which may be missing, and keeps other processes out of it until the witness is closed.
func Open(cosigner receipt.Cosigner, logs receipt.Keys, path string) (*Witness, error) {
	lock, err := datadir.OpenLock(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("lock the state of the witness: %w", err)
	}
	w := &Witness{cosigner: cosigner, logs: map[string]receipt.Keys{}, path: path, lock: lock}
	for _, key := range logs {
		w.logs[key.Name()] = append(w.logs[key.Name()], key)
	}
	locked, err := datadir.TryLock(lock)
	if err == nil && !locked {
		err = fmt.Errorf("another witness runs with %s", path)
	}
	if err == nil {
		w.seen, err = read(path)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return w, nil
}

// read reads a state file: a JSON object with the texts of checkpoints by origin.
func read(path string) (map[string]receipt.Checkpoint, error) {
	seen, texts := map[string]receipt.Checkpoint{}, map[string]string{}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return seen, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &texts)
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of the witness: %s: %w", path, err)
	}
	for origin, text := range texts {
		c, err := receipt.ParseCheckpoint(text)
		if err != nil || c.Origin != origin {
			return nil, fmt.Errorf("read the state of the witness: %s: %s has no valid checkpoint", path, origin)
		}
		seen[origin] = c
	}
	return seen, nil
}

// Close lets other processes use the state file.
func (w *Witness) Close() error { return datadir.CloseLock(w.lock) }

// add checks a submission, records its checkpoint and returns the cosigned note.
func (w *Witness) add(s submission) (signed string, err error) {
	text, _, err := receipt.CutSignatures(s.signed)
	if err != nil {
		return "", err
	}
	c, err := receipt.ParseCheckpoint(text)
	if err != nil {
		return "", err
	}
	keys := w.logs[c.Origin]
	if keys == nil {
		return "", errUnknownLog
	}
	if _, err := receipt.OpenCheckpoint(s.signed, keys...); err != nil {
		return "", fmt.Errorf("%w: %w", errSignature, err)
	}
	if s.old > c.Size {
		return "", errOldSize
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen[c.Origin] // of size 0 for a new log
	if s.old != seen.Size || s.old == c.Size && s.old > 0 && c.Root != seen.Root {
		return "", conflict{seen.Size}
	}
	if err := check(s.proof, c, seen); err != nil {
		return "", err
	}
	if err := w.record(c); err != nil {
		return "", err
	}
	cosigned, err := note.Sign(&note.Note{Text: text}, w.cosigner)
	return string(cosigned), err
}

// check returns errProof unless the proof shows that a tree begins with the tree seen.
func check(proof tlog.TreeProof, c, seen receipt.Checkpoint) error {
	if seen.Size == 0 {
		if len(proof) > 0 {
			return errProof
		}
		return nil
	}
	if tlog.CheckTree(proof, c.Size, c.Root, seen.Size, seen.Root) != nil {
		return errProof
	}
	return nil
}

// record makes a checkpoint durable. The caller holds w.mu.
func (w *Witness) record(c receipt.Checkpoint) error {
	texts := map[string]string{}
	for origin, seen := range w.seen {
		texts[origin] = seen.Text()
	}
	texts[c.Origin] = c.Text()
	content, err := json.MarshalIndent(texts, "", "  ")
	if err == nil {
		err = datadir.Replace(w.path, append(content, '\n'))
	}
	if err != nil {
		return fmt.Errorf("record a checkpoint: %w", err)
	}
	w.seen[c.Origin] = c
	return nil
}
