package witness

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/receipt"
)

// maxSubmission bounds the body of a request: a checkpoint with many signatures and a proof
// of 63 hashes are shorter.
const maxSubmission = 64 << 10

// maxProof is the maximum number of hashes in a proof.
const maxProof = 63

// submission is the body of a request.
type submission struct {
	old    int64 // size of the tree from which the proof leads
	proof  tlog.TreeProof
	signed string // the checkpoint, a signed note
}

// errSubmission occurs when a body is not a submission of c2sp.org/tlog-witness.
var errSubmission = errors.New("not a submission: want a line with the old size, lines with the proof, an empty line and a checkpoint")

// parseSubmission reads the body of a request.
func parseSubmission(body string) (s submission, err error) {
	head, signed, ok := strings.Cut(body, "\n\n")
	lines := strings.Split(head, "\n")
	size, found := strings.CutPrefix(lines[0], "old ")
	if !ok || !found || len(lines) > 1+maxProof {
		return s, errSubmission
	}
	s.signed = signed
	if s.old, err = strconv.ParseInt(size, 10, 64); err != nil || s.old < 0 || strconv.FormatInt(s.old, 10) != size {
		return s, errSubmission
	}
	for _, line := range lines[1:] {
		hash, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(hash) != tlog.HashSize {
			return s, errSubmission
		}
		s.proof = append(s.proof, tlog.Hash(hash))
	}
	return s, nil
}

// Handler answers POST /add-checkpoint. It logs each refusal, because a log that cannot
// prove that it has only grown may have been changed.
func (w *Witness) Handler(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Content-Type-Options", "nosniff")
		body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxSubmission))
		if err != nil {
			http.Error(rw, "the body is too long or incomplete", http.StatusBadRequest)
			return
		}
		s, err := parseSubmission(string(body))
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		signed, err := w.add(s)
		if err != nil {
			origin, _, _ := strings.Cut(s.signed, "\n")
			log.WarnContext(r.Context(), "checkpoint not cosigned", "origin", fmt.Sprintf("%.200q", origin), "err", err)
			refuse(rw, err)
			return
		}
		_, lines, err := receipt.CutSignatures(signed)
		if err != nil {
			refuse(rw, err)
			return
		}
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(rw, lines) // an error means that the log has disconnected
	})
	return mux
}

// refuse answers with the status that c2sp.org/tlog-witness has for an error of add.
func refuse(rw http.ResponseWriter, err error) {
	seen, conflicts := errors.AsType[conflict](err)
	switch {
	case conflicts:
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		fmt.Fprintf(rw, "%d\n", seen.seen)
	case errors.Is(err, errUnknownLog):
		http.Error(rw, errUnknownLog.Error(), http.StatusNotFound)
	case errors.Is(err, errSignature):
		http.Error(rw, errSignature.Error(), http.StatusForbidden)
	case errors.Is(err, errProof):
		http.Error(rw, errProof.Error(), http.StatusUnprocessableEntity)
	case errors.Is(err, errOldSize), errors.Is(err, receipt.ErrCheckpoint):
		http.Error(rw, err.Error(), http.StatusBadRequest)
	default:
		http.Error(rw, "the witness has failed", http.StatusInternalServerError)
	}
}
