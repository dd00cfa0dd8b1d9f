package events_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
)

// endedBatch returns a batch of one line that failed without a job.
func (f *fixture) endedBatch(t *testing.T, file events.File) events.Batch {
	t.Helper()
	b := f.begun(t, file, 1)
	err := f.EndBatch(t.Context(), b.ID, f.owner)
	if err == nil {
		b, err = f.Batch(t.Context(), f.owner, b.ID)
	}
	if err != nil || b.State != events.BatchCompleted || b.Errors == (uuid.UUID{}) {
		t.Fatalf("%+v, %v", b, err)
	}
	return b
}

// TestLinesOnRecordAreBounded creates batches up to the limit of lines on record. Deleting the files
// of an ended batch must make room, and remove its lines.
//
// security: LLM10:2025
func TestLinesOnRecordAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	file := f.file(t, "a")
	ended, open := f.endedBatch(t, file), f.begun(t, file, 5)
	create := func() error {
		_, err := f.CreateBatch(t.Context(), events.NewBatch{Owner: f.owner, Input: file.ID, Endpoint: "/v1/completions"})
		return err
	}
	// The lines of an open batch count as far as its input has been read.
	if _, err := f.db.Owner.Exec(t.Context(), `update batches set ranks = array_fill(1, array[$2::integer]) where id = $1`, open.ID, events.MaxBatchLines-2); err != nil {
		t.Fatal(err)
	}
	if err := create(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.db.Owner.Exec(t.Context(), `update batches set ranks = array_fill(1, array[$2::integer]) where id = $1`, open.ID, events.MaxBatchLines-1); err != nil {
		t.Fatal(err)
	}
	if err := create(); !errors.Is(err, events.ErrTooManyLines) {
		t.Errorf("with all lines on record: %v", err)
	}
	if err := f.DeleteFile(t.Context(), f.owner, ended.Errors); err != nil {
		t.Fatal(err)
	}
	var lines int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from batch_lines where batch = $1 and number > 0`, ended.ID).Scan(&lines); err != nil || lines != 0 {
		t.Errorf("%d lines of a batch without files, %v", lines, err)
	}
	if got, err := f.Batch(t.Context(), f.owner, ended.ID); err != nil || got.Failed != 1 || got.Metadata["k"] != "peacockmeta" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := create(); err != nil {
		t.Errorf("after the deletion: %v", err)
	}
}

// TestBatchesWithoutFilesAreBounded creates more batches without files than are kept. The oldest
// ones must be removed, and no others.
func TestBatchesWithoutFilesAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	file := f.file(t, "a")
	kept, oldest := f.endedBatch(t, file), f.endedBatch(t, file)
	if err := f.DeleteFile(t.Context(), f.owner, oldest.Errors); err != nil {
		t.Fatal(err)
	}
	_, err := f.db.Owner.Exec(t.Context(), `
		insert into batches (id, owner, input, endpoint, state, expires_at, ended_at)
		select ('ffffffff-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, $1, $2, 'e', 'failed', now(), now() from generate_series(1, $3::integer) n`,
		f.owner, file.ID, events.MaxBatchesWithoutFiles)
	if err != nil {
		t.Fatal(err)
	}
	open := f.begun(t, file, 1)
	if _, err := f.Batch(t.Context(), f.owner, oldest.ID); !errors.Is(err, events.ErrNotFound) {
		t.Errorf("the oldest batch: %v", err)
	}
	for _, b := range []events.Batch{kept, open} {
		if _, err := f.Batch(t.Context(), f.owner, b.ID); err != nil {
			t.Error(err)
		}
	}
	var n int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from batches`).Scan(&n); err != nil || n != events.MaxBatchesWithoutFiles+2 {
		t.Errorf("%d batches, %v", n, err)
	}
}
