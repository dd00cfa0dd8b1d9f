package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"colophon/api/openai"
	"colophon/jobs"
)

// lineReader reads the bodies of lines of batches. Each of its operations reads, checks and
// refuses a body with the code of the public operation at the same path. Instead of making jobs,
// it returns their requests.
type lineReader struct{ handler http.Handler }

// preparedKey is the key of the *prepared of a request in its context.
const preparedKey contextKey = identityKey + 1

// prepared is what a line asks for.
type prepared struct {
	record   openai.LineRecord
	requests []jobs.Request
}

func newLineReader(o Options) (*lineReader, error) {
	s, err := newServer(o)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	s.api = humago.New(mux, config())
	s.api.UseMiddleware(s.unsupported)
	s.bodySchemas()
	registerLine(s, openai.EndpointCompletions, openai.Completions, func(_ context.Context, in *completionInput) (lineBody, func() ([]jobs.Request, error)) {
		return &in.Body, func() ([]jobs.Request, error) { return s.completionRequests(&in.Body) }
	})
	registerLine(s, openai.EndpointChat, openai.Chat, func(_ context.Context, in *chatInput) (lineBody, func() ([]jobs.Request, error)) {
		return &in.Body, func() ([]jobs.Request, error) { return s.chatRequests(&in.Body) }
	})
	registerLine(s, openai.EndpointResponses, openai.Responses, func(ctx context.Context, in *createResponseInput) (lineBody, func() ([]jobs.Request, error)) {
		return &in.Body, func() ([]jobs.Request, error) {
			request, err := s.responseRequest(ctx, &in.Body)
			return []jobs.Request{request}, err
		}
	})
	return &lineReader{mux}, nil
}

// lineBody is the body of a line.
type lineBody interface {
	// Line returns the record of the line, or why a line cannot have the body.
	Line() (openai.LineRecord, error)
}

// registerLine adds the operation for lines of an endpoint. read returns the body, and a function
// that returns its requests.
func registerLine[I any](s *server, path string, fields openai.Operation, read func(context.Context, *I) (lineBody, func() ([]jobs.Request, error))) {
	register(s, openAIOperation(huma.Operation{OperationID: path, Path: path, DefaultStatus: http.StatusNoContent}, fields), func(ctx context.Context, in *I) (*struct{}, error) {
		body, requests := read(ctx, in)
		record, err := body.Line()
		if err != nil {
			return nil, err
		}
		p, ok := ctx.Value(preparedKey).(*prepared)
		if !ok {
			return nil, errors.New("the context of a line lacks a place for its requests")
		}
		p.record = record
		p.requests, err = requests()
		return nil, err
	})
}

// read returns what the body of a line asks for, or why it is refused.
func (l *lineReader) read(ctx context.Context, endpoint string, body []byte) (p prepared, failure *openai.LineFailure, err error) {
	id := uuid.NewString()
	ctx = context.WithValue(context.WithValue(ctx, requestKey, &request{id: id}), preparedKey, &p)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		return p, nil, fmt.Errorf("read a line of a batch: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	var answer bytes.Buffer
	w := &recordedAnswer{result{header: http.Header{}}, &answer}
	defer func() {
		// In a request, package net/http does the same. The value may contain parts of the line.
		if v := recover(); v != nil {
			err = fmt.Errorf("read a line of a batch: panic with a %T", v)
		}
	}()
	l.handler.ServeHTTP(w, r)
	switch {
	case w.status == http.StatusNoContent:
		return p, nil, nil
	case w.status >= http.StatusInternalServerError:
		return p, nil, fmt.Errorf("read a line of a batch: the answer has the status %d", w.status)
	}
	return p, &openai.LineFailure{RequestID: id, Status: w.status, Body: json.RawMessage(bytes.TrimSpace(answer.Bytes()))}, nil
}

// recordedAnswer records an answer with its body.
type recordedAnswer struct {
	result
	body *bytes.Buffer
}

func (a *recordedAnswer) Write(b []byte) (int, error) { return a.body.Write(b) }

// refusal returns the failure of a line for a problem.
func refusal(endpoint string, p *Problem) (*openai.LineFailure, error) {
	id := uuid.NewString()
	p.on(endpoint).Instance = "urn:uuid:" + id
	body, err := json.Marshal(p)
	return &openai.LineFailure{RequestID: id, Status: p.Status, Body: body}, err
}
