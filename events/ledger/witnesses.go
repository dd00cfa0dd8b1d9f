package ledger

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/receipt"
	"colophon/internal/retry"
)

const (
	// cosignTimeout bounds the wait for all witnesses. A checkpoint is published without the
	// witnesses that have not answered.
	cosignTimeout = 2 * time.Second

	// A witness that has failed is asked again after firstPause, and after twice the time
	// for each further failure, up to lastPause.
	firstPause = 5 * time.Second
	lastPause  = 5 * time.Minute

	// maxAnswer bounds the answer of a witness.
	maxAnswer = 16 << 10
)

// Witnesses asks the witnesses of a policy to cosign checkpoints (c2sp.org/tlog-witness).
// It is not safe for concurrent use.
type Witnesses struct {
	policy *receipt.Policy
	client *http.Client
	known  []witness
}

// witness is a witness with an address.
type witness struct {
	receipt.PolicyWitness
	size  int64 // size of the last checkpoint that the witness has cosigned, as far as known
	pause retry.Backoff
	next  time.Time // time of the next submission; zero means now
}

// NewWitnesses returns the witnesses of a policy that have a URL.
func NewWitnesses(p *receipt.Policy) *Witnesses {
	w := &Witnesses{policy: p, client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	for _, known := range p.Witnesses {
		if known.URL != "" {
			w.known = append(w.known, witness{PolicyWitness: known, pause: retry.Backoff{First: firstPause, Max: lastPause}})
		}
	}
	return w
}

// conflict means that a witness has seen a tree that the log does not continue.
type conflict struct {
	witness string
	size    int64 // size of the tree that the witness has seen; 0 if it is not known
}

func (c *conflict) Error() string {
	if c.size > 0 {
		return fmt.Sprintf("the witness %s has seen a log of %d events", c.witness, c.size)
	}
	return fmt.Sprintf("the witness %s has seen another log of this name", c.witness)
}

// due reports whether a witness may be asked that has not cosigned a checkpoint.
func (w *Witnesses) due(have map[receipt.Witness]note.Signature) bool {
	return slices.ContainsFunc(w.known, func(known witness) bool {
		_, ok := have[known.Witness]
		return !ok && !time.Now().Before(known.next)
	})
}

// cosign submits a checkpoint to all witnesses that have not cosigned it, at the same time. If
// all is set, it asks also those that have, and those that have just failed. It returns the
// new signature lines and the error of each witness that did not cosign. The function prove
// returns the proof that the checkpoint's tree begins with a tree of a size.
func (w *Witnesses) cosign(ctx context.Context, c receipt.Checkpoint, signed string, have map[receipt.Witness]note.Signature, all bool, prove func(size int64) (tlog.TreeProof, error)) (lines string, failed []error) {
	ctx, cancel := context.WithTimeout(ctx, cosignTimeout)
	defer cancel()
	var mu sync.Mutex // for lines, failed and the tree from which prove reads
	var asked sync.WaitGroup
	for i := range w.known {
		known := &w.known[i]
		_, cosigned := have[known.Witness]
		if !all && (cosigned || time.Now().Before(known.next)) {
			continue
		}
		asked.Go(func() {
			line, err := w.submit(ctx, known, c, signed, func(size int64) (tlog.TreeProof, error) {
				mu.Lock()
				defer mu.Unlock()
				return prove(size)
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				known.next = time.Now().Add(known.pause.Next())
				failed = append(failed, err)
				return
			}
			known.next = time.Time{}
			known.pause.Reset()
			if !cosigned {
				lines += line
			}
		})
	}
	asked.Wait()
	return lines, failed
}

// submit submits a checkpoint to one witness. If the witness knows another size than this
// process thought, it submits the checkpoint once more.
func (w *Witnesses) submit(ctx context.Context, known *witness, c receipt.Checkpoint, signed string, prove func(int64) (tlog.TreeProof, error)) (line string, err error) {
	for range 2 {
		proof, err := prove(known.size)
		if err != nil {
			return "", err
		}
		status, answer, err := w.post(ctx, known.URL, known.size, proof, signed)
		switch {
		case err != nil:
			return "", fmt.Errorf("witness %s: %w", known.Name(), err)
		case status == http.StatusOK:
			line, err := known.line(c, signed, answer)
			if err == nil {
				known.size = c.Size
			}
			return line, err
		case status == http.StatusUnprocessableEntity:
			return "", &conflict{known.Name(), 0}
		case status != http.StatusConflict:
			return "", fmt.Errorf("witness %s: it answered with the status %d", known.Name(), status)
		}
		size, err := strconv.ParseInt(strings.TrimSuffix(answer, "\n"), 10, 64)
		switch {
		case err != nil || size < 0:
			return "", fmt.Errorf("witness %s: it answered with the status %d and without a size", known.Name(), status)
		case size > c.Size:
			return "", &conflict{known.Name(), size}
		case size == known.size && size == c.Size:
			return "", &conflict{known.Name(), 0}
		}
		known.size = size
	}
	return "", fmt.Errorf("witness %s: its size changed while it was asked", known.Name())
}

// line returns the signature line of the witness in its answer.
func (w *witness) line(c receipt.Checkpoint, signed, answer string) (string, error) {
	text, _, err := receipt.CutSignatures(signed)
	if err != nil {
		return "", err
	}
	n, err := note.Open([]byte(text+"\n"+answer), note.VerifierList(w.Witness))
	if err != nil || n.Text != text || c.Text() != text {
		return "", fmt.Errorf("witness %s: its answer is not a cosignature of the checkpoint", w.Name())
	}
	// Package note accepts several spellings of a signature, and a verifier only one.
	raw, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("— %s %s\n", w.Name(), base64.StdEncoding.EncodeToString(raw)), nil
}

// post sends one request to a witness.
func (w *Witnesses) post(ctx context.Context, url string, old int64, proof tlog.TreeProof, signed string) (status int, answer string, err error) {
	var body bytes.Buffer
	fmt.Fprintf(&body, "old %d\n", old)
	for _, hash := range proof {
		fmt.Fprintf(&body, "%s\n", hash)
	}
	fmt.Fprintf(&body, "\n%s", signed)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/add-checkpoint", &body)
	if err != nil {
		return 0, "", err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(read) > maxAnswer {
		err = errors.New("the answer is too long")
	}
	return resp.StatusCode, string(read), err
}
