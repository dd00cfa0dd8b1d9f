package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"colophon/api/openai"
	"colophon/events"
	"colophon/internal/periodic"
	"colophon/jobs"
)

const (
	// batchesEvery is the interval of the search for batches that have something to do.
	batchesEvery = 250 * time.Millisecond

	openBatches = 1000 // maximum number of batches that one search looks at
	linesToFail = 200  // maximum number of lines of a stopped batch that fail in one step
)

// Batches moves batches on. The rows of a batch say what is to be done next, and each step is one
// transaction that checks that it still is. So any number of processes may do this at the same
// time, and may be killed at any point.
type Batches struct {
	*server
	lines *lineReader
	waits budgetWaits
	now   func() time.Time
	begun map[uuid.UUID]int // number of lines of each owner that the current pass has begun
}

// NewBatches returns the Batches of an API with these options.
func NewBatches(o Options) (*Batches, error) {
	s, err := newServer(o)
	if err != nil {
		return nil, err
	}
	lines, err := newLineReader(o)
	if err != nil {
		return nil, err
	}
	return &Batches{server: s, lines: lines, waits: budgetWaits{}, now: time.Now}, nil
}

// Run moves batches on until ctx is done.
func (b *Batches) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		periodic.Run(ctx, time.Minute, b.Log, "incomplete uploads not removed, retrying", b.Store.ForgetFiles)
	})
	periodic.Run(ctx, batchesEvery, b.Log, "batches not advanced, retrying", b.pass)
}

// pass moves each open batch on by one step, so that a long batch does not hold up the others.
// For the same reason it goes on after an error.
func (b *Batches) pass(ctx context.Context) error {
	b.begun = map[uuid.UUID]int{}
	open, err := b.Store.OpenBatches(ctx, openBatches)
	b.waits.keep(open)
	for _, batch := range open {
		if ctx.Err() != nil {
			break
		}
		if failed := b.advance(ctx, batch); failed != nil && !errors.Is(failed, events.ErrNotFound) { // erased meanwhile
			err = errors.Join(err, fmt.Errorf("batch %s: %w", batch.ID, failed))
		}
	}
	return err
}

// advance moves a batch on by one step: it records ended lines, and then begins more or cancels
// the rest, as the state of the batch demands.
func (b *Batches) advance(ctx context.Context, open events.OpenBatch) error {
	batch, err := b.Store.Batch(ctx, open.Owner, open.ID)
	if err != nil {
		return err
	}
	if batch.State == events.BatchInProgress && batch.Overdue {
		if err = b.Store.FinalizeBatch(ctx, batch.ID); err == nil {
			batch, err = b.Store.Batch(ctx, open.Owner, open.ID)
		}
		if err != nil {
			return err
		}
	}
	if err := b.endLines(ctx, batch); err != nil {
		return err
	}
	switch batch.State {
	case events.BatchValidating:
		return b.validate(ctx, batch)
	case events.BatchInProgress:
		err = b.submit(ctx, batch)
	case events.BatchCancelling:
		err = b.cut(ctx, batch, jobs.ErrBatchCancelled)
	case events.BatchFinalizing:
		err = b.cut(ctx, batch, jobs.ErrBatchExpired)
	}
	if err == nil && batch.Next > batch.Total {
		err = b.Store.EndBatch(ctx, batch.ID, batch.Owner)
	}
	return err
}

// endLines records the results of lines whose jobs have ended.
func (b *Batches) endLines(ctx context.Context, batch events.Batch) error {
	lines, err := b.Store.RunningLines(ctx, batch, true, events.MaxRunningLines)
	if err != nil {
		return err
	}
	return b.outputs(ctx, batch, lines, func(line events.Line, text []byte, failed bool) error {
		delete(b.waits, batch.ID) // the line may have used less than it reserved
		return b.Store.EndLine(ctx, batch, line.Number, failed, len(text))
	})
}

// validate reads the input of a batch, and records the order of its lines or its first faults.
func (b *Batches) validate(ctx context.Context, batch events.Batch) error {
	var ids []string
	var faults []events.BatchFault
	for number := 0; len(faults) < maxFaults; {
		chunk, err := b.Store.NextChunk(ctx, batch.Owner, batch.Input, number)
		if errors.Is(err, events.ErrNotFound) {
			break
		}
		if err != nil {
			return err
		}
		for line := chunk.FirstLine; len(faults) < maxFaults; line++ {
			text, ok := chunk.At(line)
			if !ok {
				break
			}
			r, fault := openai.ReadBatchRequest(text, batch.Endpoint)
			if fault != nil {
				fault.Line = line
				faults = append(faults, *fault)
			}
			ids = append(ids, r.CustomID)
		}
		number = chunk.Number
	}
	if len(ids) == 0 {
		faults = append(faults, events.BatchFault{Code: "empty_file", Message: "the input has no lines"})
	}
	if len(faults) > 0 {
		return b.Store.FailBatch(ctx, batch.ID, faults)
	}
	ranks, faults := rank(ids)
	if len(faults) > 0 {
		return b.Store.FailBatch(ctx, batch.ID, faults)
	}
	return b.Store.BeginBatch(ctx, batch.ID, ranks)
}

// rank returns the places of lines in the order of their custom ids, and the lines that repeat a
// custom id.
func rank(ids []string) (ranks []int32, faults []events.BatchFault) {
	order := make([]int, len(ids))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(ids[a], ids[b]) })
	ranks = make([]int32, len(ids))
	for place, i := range order {
		ranks[i] = int32(place + 1)
		if place > 0 && ids[order[place-1]] == ids[i] && len(faults) < maxFaults {
			faults = append(faults, events.BatchFault{Code: "duplicate_custom_id", Line: i + 1, Message: "an earlier line has the same custom_id", Param: "custom_id"})
		}
	}
	return ranks, faults
}

// errWait means that the next line of a batch has to wait for room or for a budget.
var errWait = errors.New("the line has to wait")

// submit makes jobs for the next lines of a batch, as long as the owner has room. A refused line
// takes no room, so the number of lines that a pass begins is bounded as well: a batch of refused
// lines must not hold up the others.
func (b *Batches) submit(ctx context.Context, batch events.Batch) error {
	if b.waits.waiting(batch.ID, b.now()) {
		return nil
	}
	running, err := b.Store.RunningOf(ctx, batch.Owner)
	if err != nil {
		return err
	}
	most := events.MaxRunningLines - max(running, b.begun[batch.Owner])
	err = b.eachLine(ctx, &batch, most, func(r openai.BatchRequest) error {
		b.begun[batch.Owner]++
		return b.submitLine(ctx, batch, r)
	})
	if errors.Is(err, errWait) || errors.Is(err, events.ErrLinesRunning) || errors.Is(err, events.ErrLineTaken) { // by another process
		return nil
	}
	return err
}

// eachLine calls fn with up to most of the next lines of a batch. While fn runs, the line is
// batch.Next.
func (b *Batches) eachLine(ctx context.Context, batch *events.Batch, most int, fn func(openai.BatchRequest) error) error {
	var chunk events.Chunk
	for ; most > 0 && batch.Next <= batch.Total && ctx.Err() == nil; most-- {
		text, ok := chunk.At(batch.Next)
		if !ok {
			var err error
			if chunk, err = b.Store.ReadChunk(ctx, batch.Owner, batch.Input, batch.Next); err != nil {
				return err
			}
			text, _ = chunk.At(batch.Next)
		}
		r, fault := openai.ReadBatchRequest(text, batch.Endpoint)
		if fault != nil {
			return fmt.Errorf("line %d was valid, and is not any more: %s", batch.Next, fault.Code)
		}
		if err := fn(r); err != nil {
			return err
		}
		batch.Next++
	}
	return ctx.Err()
}

// submitLine makes the jobs of the next line of a batch, or records its refusal. It returns
// errWait if the queue or a budget has no room for it now.
func (b *Batches) submitLine(ctx context.Context, batch events.Batch, r openai.BatchRequest) error {
	p, failure, err := b.lines.read(ctx, batch.Endpoint, r.Body)
	if err != nil {
		return err
	}
	p.record.CustomID = r.CustomID
	var fact events.Fact
	if failure == nil {
		record, err := json.Marshal(p.record)
		if err == nil {
			err = b.Queue.SubmitLine(ctx, batch, batch.Next, record, p.requests)
		}
		if err == nil {
			delete(b.waits, batch.ID)
			return nil
		}
		if errors.Is(err, events.ErrLineTaken) || errors.Is(err, events.ErrLinesRunning) {
			return err
		}
		problem := lasting(err)
		if problem == nil {
			if errors.Is(err, jobs.ErrQueueFull) {
				return errWait
			}
			if budget, ok := errors.AsType[*jobs.BudgetError](err); ok {
				b.waits.add(batch.ID, b.now(), budget.Reset)
				return errWait
			}
			return err
		}
		fact = b.Queue.Refused(err)
		if failure, err = refusal(batch.Endpoint, problem); err != nil {
			return err
		}
	}
	line, err := b.failed(ctx, batch, batch.Next, openai.LineRecord{CustomID: r.CustomID, Failure: failure})
	if err != nil {
		return err
	}
	return b.Store.FailLines(ctx, batch, batch.Next, []events.FailedLine{line}, fact)
}

// failed returns the result of a line without jobs.
func (b *Batches) failed(ctx context.Context, batch events.Batch, number int, record openai.LineRecord) (line events.FailedLine, err error) {
	if line.Record, err = json.Marshal(record); err != nil {
		return line, err
	}
	text, _, err := b.outputOf(ctx, batch, events.Line{Number: number, Record: line.Record}, nil)
	line.Bytes = len(text)
	return line, err
}

// cut cancels lines of a batch that have not ended, up to the limit of one step. The lines get
// reason as their error.
func (b *Batches) cut(ctx context.Context, batch events.Batch, reason error) error {
	if err := b.Queue.EndLines(ctx, batch, events.MaxRunningLines); err != nil {
		return err
	}
	first := batch.Next
	var lines []events.FailedLine
	err := b.eachLine(ctx, &batch, linesToFail, func(r openai.BatchRequest) error {
		line, err := b.failed(ctx, batch, batch.Next, openai.LineRecord{CustomID: r.CustomID, Failure: &openai.LineFailure{Error: lineError(reason)}})
		lines = append(lines, line)
		return err
	})
	if err != nil || len(lines) == 0 {
		return err
	}
	err = b.Store.FailLines(ctx, batch, first, lines, nil)
	if errors.Is(err, events.ErrLineTaken) { // by another process
		return nil
	}
	return err
}
