package events_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/vault"
)

// file stores a file of some chunks, each with a line.
func (f *fixture) file(t *testing.T, lines ...string) events.File {
	t.Helper()
	id, err := f.BeginFile(t.Context(), f.owner)
	for i, line := range lines {
		if err == nil {
			err = f.AddChunk(t.Context(), f.owner, id, i+1, i+1, []byte(line+"\n"))
		}
	}
	var file events.File
	if err == nil {
		file, err = f.StoreFile(t.Context(), f.owner, id, "peacockname", 99)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// begun begins a batch of a file whose lines are in order, and fails the first line.
func (f *fixture) begun(t *testing.T, file events.File, lines int) events.Batch {
	t.Helper()
	b, err := f.CreateBatch(t.Context(), events.NewBatch{Owner: f.owner, Input: file.ID, Endpoint: "/v1/completions", Metadata: map[string]string{"k": "peacockmeta"}})
	ranks := make([]int32, lines)
	for i := range ranks {
		ranks[i] = int32(i + 1)
	}
	if err == nil {
		err = f.BeginBatch(t.Context(), b.ID, ranks)
	}
	if err == nil {
		err = f.FailLines(t.Context(), b, 1, []events.FailedLine{{Record: []byte("peacockrecord"), Bytes: 5}}, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// count returns the number of rows of files and batches.
func (f *fixture) rowsOfFiles(t *testing.T) (n int) {
	t.Helper()
	err := f.db.Owner.QueryRow(t.Context(), `
		select (select count(*) from files) + (select count(*) from file_chunks) + (select count(*) from batches) + (select count(*) from batch_lines)`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFilesAreSealed stores a file and a batch, replaces the owner's key, and erases the owner.
// No table may have the texts in the clear, and no row may be left in the end.
//
// security: LLM02:2025
func TestFilesAreSealed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.SetKeyWait(0)
	file := f.file(t, "peacockline 1", "peacockline 2")
	b := f.begun(t, file, 2)
	for _, table := range []string{"files", "file_chunks", "batches", "batch_lines"} {
		var n int
		if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from `+table+` r where strpos(r::text, 'peacock') > 0 or strpos(r::text, $1) > 0`, fmt.Sprintf("%x", "peacock")).Scan(&n); err != nil || n > 0 {
			t.Errorf("%s: %d rows in the clear, %v", table, n, err)
		}
	}
	check := func() {
		t.Helper()
		got, err := f.File(t.Context(), f.owner, file.ID)
		if err != nil || got != file || got.Name != "peacockname" || got.Bytes != 99 {
			t.Errorf("%+v, %v", got, err)
		}
		chunk, err := f.ReadChunk(t.Context(), f.owner, file.ID, 2)
		if text, ok := chunk.At(2); err != nil || !ok || string(text) != "peacockline 2" || chunk.Number != 2 {
			t.Errorf("%+v, %v", chunk, err)
		}
		lines, err := f.EndedLines(t.Context(), b, true, 0, 10)
		if err != nil || len(lines) != 1 || string(lines[0].Record) != "peacockrecord" || lines[0].Rank != 1 {
			t.Errorf("%+v, %v", lines, err)
		}
		if again, err := f.Batch(t.Context(), f.owner, b.ID); err != nil || again.Metadata["k"] != "peacockmeta" || again.Failed != 1 || again.Total != 2 || again.Next != 2 {
			t.Errorf("%+v, %v", again, err)
		}
	}
	check()
	if r, err := f.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{}); err != nil || r.Parts != 5 { // name, two lines, metadata, one result
		t.Errorf("%+v, %v", r, err)
	}
	check()
	other := uuid.Must(uuid.NewV7())
	f.register(t, other)
	if _, err := f.File(t.Context(), other, file.ID); !errors.Is(err, events.ErrNotFound) {
		t.Errorf("another owner: %v", err)
	}
	if err := f.Write(t.Context(), func(tx *events.Tx) error { return tx.CloseOwner(t.Context(), f.owner) }); err != nil {
		t.Fatal(err)
	}
	if _, err := f.BeginFile(t.Context(), f.owner); !errors.Is(err, vault.ErrErased) {
		t.Errorf("a closed owner begins a file: %v", err)
	}
	if open, err := f.OpenBatches(t.Context(), 10); err != nil || len(open) > 0 {
		t.Errorf("the batches of a closed owner go on: %v, %v", open, err)
	}
	if err := f.Erase(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	if n := f.rowsOfFiles(t); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// TestOldFilesAreRemoved removes files and batches by their age. What a batch needs that has not
// ended must stay.
func TestOldFilesAreRemoved(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	used, unused := f.file(t, "a", "b"), f.file(t, "c")
	b := f.begun(t, used, 2)
	if _, err := f.BeginFile(t.Context(), f.owner); err != nil { // an upload under way
		t.Fatal(err)
	}
	if n, err := f.RemoveOldFiles(t.Context(), time.Hour); err != nil || n != 0 {
		t.Errorf("%d removed, %v", n, err)
	}
	if n, err := f.RemoveOldFiles(t.Context(), 0); err != nil || n != 1 {
		t.Errorf("%d removed, %v", n, err)
	}
	if _, err := f.File(t.Context(), f.owner, unused.ID); !errors.Is(err, events.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if err := f.DeleteFile(t.Context(), f.owner, used.ID); !errors.Is(err, events.ErrFileInUse) {
		t.Errorf("%v", err)
	}
	if err := errors.Join(f.CancelBatch(t.Context(), b.ID), f.EndBatch(t.Context(), b.ID, f.owner)); err != nil {
		t.Fatal(err)
	}
	if b, err := f.Batch(t.Context(), f.owner, b.ID); err != nil || b.State != events.BatchCancelling { // a line has no result
		t.Errorf("%+v, %v", b, err)
	}
	if err := errors.Join(f.FailLines(t.Context(), b, 2, []events.FailedLine{{Record: []byte("r"), Bytes: 5}}, nil), f.EndBatch(t.Context(), b.ID, f.owner)); err != nil {
		t.Fatal(err)
	}
	b, err := f.Batch(t.Context(), f.owner, b.ID)
	if err != nil || b.State != events.BatchCancelled || b.Errors == (uuid.UUID{}) || b.Output != (uuid.UUID{}) {
		t.Errorf("%+v, %v", b, err)
	}
	if made, err := f.File(t.Context(), f.owner, b.Errors); err != nil || made.Bytes != 10 || !made.Failed {
		t.Errorf("%+v, %v", made, err)
	}
	if n, err := f.RemoveOldFiles(t.Context(), 0); err != nil || n != 2 { // the batch with its file, and its input
		t.Errorf("%d removed, %v", n, err)
	}
	if n := f.rowsOfFiles(t); n != 1 {
		t.Errorf("%d rows are left, want the upload", n)
	}
	if _, err := f.db.Owner.Exec(t.Context(), `update files set created_at = created_at - interval '61 minutes'`); err != nil {
		t.Fatal(err)
	}
	if err := f.ForgetFiles(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := f.rowsOfFiles(t); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// TestLinesAreTakenOnce takes the same line in two transactions, and a line out of order.
func TestLinesAreTakenOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	b := f.begun(t, f.file(t, "a", "b", "c"), 3)
	take := func(number int) error {
		return f.Write(t.Context(), func(tx *events.Tx) error {
			return tx.TakeLine(t.Context(), b, number, []uuid.UUID{uuid.New()}, []byte("r"))
		})
	}
	for _, k := range []struct {
		number int
		taken  bool
	}{{1, true}, {3, true}, {2, false}, {2, true}} {
		if err := take(k.number); errors.Is(err, events.ErrLineTaken) != k.taken || !k.taken && err != nil {
			t.Errorf("line %d: %v", k.number, err)
		}
	}
	if err := f.FailLines(t.Context(), b, 2, []events.FailedLine{{Record: []byte("r")}}, nil); !errors.Is(err, events.ErrLineTaken) {
		t.Errorf("%v", err)
	}
	for range 2 { // the jobs do not exist, so they do not run
		if lines, err := f.RunningLines(t.Context(), b, true, 10); err != nil || len(lines) > 1 {
			t.Errorf("%v, %v", lines, err)
		}
		if err := f.EndLine(t.Context(), b, 2, false, 7); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := f.Batch(t.Context(), f.owner, b.ID); err != nil || b.Completed != 1 || b.Failed != 1 || b.Next != 3 {
		t.Errorf("%+v, %v", b, err)
	}
	if n, err := f.RunningOf(t.Context(), f.owner); err != nil || n != 0 {
		t.Errorf("%d lines run, %v", n, err)
	}
	if _, err := f.db.Owner.Exec(t.Context(), `update batches set expires_at = clock_timestamp()`); err != nil {
		t.Fatal(err)
	}
	if err := take(3); !errors.Is(err, events.ErrLineTaken) {
		t.Errorf("after the deadline: %v", err)
	}
}

// TestFilesAreBounded begins as many files and batches as an owner may have.
func TestFilesAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	file := f.file(t, strings.Repeat("a", 10))
	for range events.MaxFiles - 1 {
		if _, err := f.BeginFile(t.Context(), f.owner); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.BeginFile(t.Context(), f.owner); !errors.Is(err, events.ErrTooManyFiles) {
		t.Errorf("%v", err)
	}
	for range events.MaxOpenBatches {
		f.begun(t, file, 1)
	}
	n := events.NewBatch{Owner: f.owner, Input: file.ID, Endpoint: "/v1/completions"}
	if _, err := f.CreateBatch(t.Context(), n); !errors.Is(err, events.ErrTooManyBatches) {
		t.Errorf("%v", err)
	}
	n.Input = uuid.New()
	if _, err := f.CreateBatch(t.Context(), n); !errors.Is(err, events.ErrNotFound) {
		t.Errorf("%v", err)
	}
}
