package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/api/openai"
	"colophon/events"
	"colophon/internal/auth"
	"colophon/jobs"
)

const batchesPath = "/v1/batches"

type createBatchInput struct {
	Idempotent
	Body openai.BatchBody
}

// BatchPath is the path of a batch. It is exported because Huma reads only exported types inside
// others.
type BatchPath struct {
	ID string `path:"id" pattern:"^batch_[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" patternDescription:"batch_ and a UUID" maxLength:"42" example:"batch_01920000-0000-7000-8000-000000000001" doc:"The batch's id."`
}

type listBatchesInput struct {
	Limit int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"The largest number of batches."`
	After string `query:"after" pattern:"^batch_[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" patternDescription:"batch_ and a UUID" maxLength:"42" doc:"Begin after the batch with this id."`
}

type (
	batchOutput     struct{ Body openai.Batch }
	batchListOutput struct{ Body openai.BatchList }
)

func (s *server) batches() {
	register(s, huma.Operation{
		OperationID: "create-batch", Method: http.MethodPost, Path: batchesPath, Tags: []string{"openai"},
		DefaultStatus: http.StatusOK,
		Summary:       "Begin a batch, as OpenAI's API does",
		Description: "Makes the jobs of a file of requests, over time: at most 32 lines of an account have jobs at once. The jobs have the lowest priority. They do not count against the limits of calls and of outstanding jobs, but against the token budgets: when a budget of the day is spent, the lines wait for the next day. " +
			"Each line is answered as its operation answers the same request alone, and has its own failure. stream, background, store: false and previous_response_id are refused in lines. " +
			"Lines that have not ended after 24 hours are cancelled. An account has at most 8 batches that have not ended, beyond which the answer is 409 too_many_batches. " +
			"When its batches have 500000 lines, the answer is 409 too_many_batch_lines until files of ended batches are deleted.",
		Security: keyed(auth.ScopeGenerate),
		Metadata: map[string]any{fieldsName: openai.Batches},
		Errors:   []int{http.StatusNotFound, http.StatusConflict},
	}, s.createBatch)
	register(s, huma.Operation{
		OperationID: "list-batches", Method: http.MethodGet, Path: batchesPath, Tags: []string{"openai"},
		Summary:  "List your batches, the newest first, as OpenAI's API does",
		Security: keyed(auth.ScopeRead),
	}, s.listBatches)
	register(s, huma.Operation{
		OperationID: "get-batch", Method: http.MethodGet, Path: batchesPath + "/{id}", Tags: []string{"openai"},
		Summary:  "Get a batch, as OpenAI's API does",
		Security: keyed(auth.ScopeRead),
		Errors:   []int{http.StatusNotFound},
	}, func(ctx context.Context, in *BatchPath) (*batchOutput, error) {
		batch, err := s.ownBatch(ctx, in.ID)
		return &batchOutput{openai.NewBatch(batch)}, err
	})
	register(s, huma.Operation{
		OperationID: "cancel-batch", Method: http.MethodPost, Path: batchesPath + "/{id}/cancel", Tags: []string{"openai"},
		Summary:     "Cancel a batch, as OpenAI's API does",
		Description: "Lines under way are cancelled, and no more lines begin. Answers that are complete stay in the output. A batch that has ended stays as it is. An API key without the scope read gets no metadata.",
		Security:    keyed(auth.ScopeGenerate),
		Errors:      []int{http.StatusNotFound},
	}, s.cancelBatch)
}

// ownBatch returns a batch of the caller, or events.ErrNotFound.
func (s *server) ownBatch(ctx context.Context, id string) (events.Batch, error) {
	batch, ok := openai.ParseID(openai.BatchPrefix, id)
	if !ok {
		return events.Batch{}, events.ErrNotFound
	}
	return s.Store.Batch(ctx, caller(ctx).Account, batch)
}

func (s *server) createBatch(ctx context.Context, in *createBatchInput) (*batchOutput, error) {
	b := &in.Body
	input, ok := openai.ParseID(openai.FilePrefix, b.InputFileID)
	if !ok {
		return nil, events.ErrNotFound
	}
	key, err := openAIKey(ctx, &in.Idempotent, batchesPath, b)
	if err != nil {
		return nil, err
	}
	n := events.NewBatch{Owner: caller(ctx).Account, Input: input, Endpoint: b.Endpoint, Metadata: b.Metadata, Key: key}
	if key := caller(ctx).Key; key != nil {
		n.APIKey, n.APIKeyTokens = key.ID, key.Tokens
	}
	batch, err := s.Store.CreateBatch(ctx, n)
	return &batchOutput{openai.NewBatch(batch)}, err
}

func (s *server) listBatches(ctx context.Context, in *listBatchesInput) (*batchListOutput, error) {
	after, _ := openai.ParseID(openai.BatchPrefix, in.After)
	found, err := s.Store.Batches(ctx, caller(ctx).Account, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	page := openai.BatchList{Object: "list", Data: []openai.Batch{}, HasMore: len(found) > in.Limit}
	for _, b := range found[:min(in.Limit, len(found))] {
		page.Data = append(page.Data, openai.NewBatch(b))
	}
	if n := len(page.Data); n > 0 {
		page.FirstID, page.LastID = &page.Data[0].ID, &page.Data[n-1].ID
	}
	return &batchListOutput{page}, nil
}

func (s *server) cancelBatch(ctx context.Context, in *BatchPath) (*batchOutput, error) {
	batch, err := s.ownBatch(ctx, in.ID)
	if err == nil {
		err = s.Store.CancelBatch(ctx, batch.ID)
	}
	if err == nil {
		batch, err = s.ownBatch(ctx, in.ID)
	}
	if err != nil {
		return nil, err
	}
	body := openai.NewBatch(batch)
	if !mayRead(ctx) {
		body.Metadata = openai.Metadata{}
	}
	return &batchOutput{body}, nil
}

const (
	// outputPage is the number of lines that are read at a time.
	outputPage = 100

	// jobsAtOnce is the number of jobs that are read at a time, unless one line has more. It is small
	// because a job with log probabilities can have megabytes.
	jobsAtOnce = 16
)

// writeOutput writes a file that a batch has made.
func (s *server) writeOutput(ctx context.Context, to timedWriter, batch events.Batch, failed bool) error {
	w := bufio.NewWriterSize(to, 64<<10) // each write to the connection flushes it
	for rank := 0; ; {
		lines, err := s.Store.EndedLines(ctx, batch, failed, rank, outputPage)
		if err != nil {
			return err
		}
		if len(lines) == 0 {
			file := batch.Output
			if failed {
				file = batch.Errors
			}
			// A deletion meanwhile has removed the lines too, and the output is not complete.
			if _, err := s.Store.File(ctx, batch.Owner, file); err != nil {
				return err
			}
			return w.Flush()
		}
		err = s.outputs(ctx, batch, lines, func(line events.Line, text []byte, _ bool) error {
			rank = line.Rank
			_, err := w.Write(text)
			return err
		})
		if err != nil {
			return err
		}
	}
}

// outputs calls each with the output of each ended line, as outputOf returns it. It reads up to
// jobsAtOnce jobs in one query.
func (s *server) outputs(ctx context.Context, batch events.Batch, lines []events.Line, each func(line events.Line, text []byte, failed bool) error) error {
	for len(lines) > 0 {
		var ids []uuid.UUID
		n := 0
		for n < len(lines) && (n == 0 || len(ids)+len(lines[n].Jobs) <= jobsAtOnce) {
			ids = append(ids, lines[n].Jobs...)
			n++
		}
		found, err := s.Store.JobsByID(ctx, ids)
		for i := 0; err == nil && i < n; i++ {
			var text []byte
			var failed bool
			if text, failed, err = s.outputOf(ctx, batch, lines[i], found); err == nil {
				err = each(lines[i], text, failed)
			}
		}
		if err != nil {
			return err
		}
		lines = lines[n:]
	}
	return nil
}

// outputOf returns the output of an ended line, with its line feed, and reports whether the line
// has failed. The output has the answer that the operation gives about these jobs. A job that
// found lacks is read on its own, so that the error says what is wrong with it.
func (s *server) outputOf(ctx context.Context, batch events.Batch, line events.Line, found map[uuid.UUID]events.Job) (text []byte, failed bool, err error) {
	var record openai.LineRecord
	if err := json.Unmarshal(line.Record, &record); err != nil {
		return nil, false, fmt.Errorf("read the record of line %d of batch %s: %w", line.Number, batch.ID, err)
	}
	out := openai.LineOutput{ID: fmt.Sprintf("batch_req_%s_%d", batch.ID, line.Number), CustomID: record.CustomID}
	switch f := record.Failure; {
	case f == nil:
		out.Response, out.Error, err = s.answerLine(ctx, batch, record, line.Jobs, found)
	case f.Error != nil:
		out.Error = f.Error
	default:
		out.Response = &openai.LineResponse{StatusCode: f.Status, RequestID: f.RequestID, Body: f.Body}
	}
	if err != nil {
		return nil, false, err
	}
	text, err = json.Marshal(out)
	return append(text, '\n'), out.Error != nil || out.Response.StatusCode != http.StatusOK, err
}

// answerLine returns the answer about the ended jobs of a line, or why there is none.
func (s *server) answerLine(ctx context.Context, batch events.Batch, record openai.LineRecord, ids []uuid.UUID, found map[uuid.UUID]events.Job) (*openai.LineResponse, *openai.LineError, error) {
	response := &openai.LineResponse{StatusCode: http.StatusOK, RequestID: ids[0].String()}
	group := make([]events.Job, len(ids))
	for i, id := range ids {
		var err error
		job, ok := found[id]
		if !ok {
			job, err = s.Store.Job(ctx, id)
		}
		group[i] = job
		if err == nil {
			if cut := jobs.EndOfLine(group[i]); cut != nil {
				return nil, lineError(cut), nil
			}
			err = textless(group[i])
		}
		if err == nil {
			continue
		}
		p := lasting(err)
		if p == nil {
			return nil, nil, err
		}
		p.on(batch.Endpoint).Instance = "urn:uuid:" + id.String()
		response.StatusCode, response.Body = p.Status, p
		return response, nil, nil
	}
	response.Body = record.Answer(batch.Endpoint, group, s.Queue.Logprobs)
	return response, nil, nil
}

// lasting returns the problem with which a line fails. It returns nil for an error that may not
// occur at another try.
func lasting(err error) *Problem {
	p, ok := errors.AsType[*Problem](err)
	if known, isCoded := errors.AsType[coded](err); !ok && isCoded {
		p, _ = explain(known)
	}
	if p == nil || slices.Contains([]int{http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusServiceUnavailable}, p.Status) {
		return nil
	}
	return p
}

// lineError returns the error of a line of a batch.
func lineError(err error) *openai.LineError {
	e := &openai.LineError{Message: err.Error()}
	if known, ok := errors.AsType[coded](err); ok {
		e.Code = known.Code()
	}
	return e
}
