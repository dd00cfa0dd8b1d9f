package events_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
)

// TestProcessesShareTheRoomOfAnOwner takes the lines of several batches of one owner at the same
// time, as several processes do. No more lines than an owner may have must run. When one has
// ended, another one has room.
//
// security: ASVS 2.3.2, ASVS 15.4.2
func TestProcessesShareTheRoomOfAnOwner(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	file := f.file(t, "a")
	take := func(b events.Batch, number int) error {
		return f.Write(t.Context(), func(tx *events.Tx) error {
			return tx.TakeLine(t.Context(), b, number, []uuid.UUID{uuid.New()}, []byte("r"))
		})
	}
	var processes sync.WaitGroup
	var taken atomic.Int32
	var batches [events.MaxOpenBatches]events.Batch
	for i := range batches {
		batches[i] = f.begun(t, file, 10)
		processes.Go(func() {
			for number := 2; number <= 10; number++ { // the first line has failed
				err := take(batches[i], number)
				if errors.Is(err, events.ErrLinesRunning) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				taken.Add(1)
			}
		})
	}
	processes.Wait()
	n, err := f.RunningOf(t.Context(), f.owner)
	if err != nil || n != events.MaxRunningLines || int(taken.Load()) != n {
		t.Errorf("%d lines run and %d were taken, want %d, %v", n, taken.Load(), events.MaxRunningLines, err)
	}
	for _, b := range batches {
		running, err := f.RunningLines(t.Context(), b, true, 1) // their jobs do not exist
		if err == nil && len(running) == 0 {
			continue
		}
		if err == nil {
			err = f.EndLine(t.Context(), b, running[0].Number, true, 1)
		}
		if err == nil {
			b, err = f.Batch(t.Context(), f.owner, b.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		if b.Next > b.Total {
			continue
		}
		if err := take(b, b.Next); err != nil {
			t.Errorf("with room again: %v", err)
		}
		return
	}
	t.Error("no batch has a running line and another one to take")
}
