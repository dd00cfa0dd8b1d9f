package api

import (
	"bytes"
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"colophon/api/openai"
	"colophon/events"
)

// streamNewResponse streams the events of a new response. It calls leave at the end of the
// stream.
func (s *server) streamNewResponse(ctx context.Context, key *events.IdempotencyKey, job events.Job, leave func(), background bool) (*openAIOutput, error) {
	if !job.ErasedAt.IsZero() { // the job of an idempotency key
		leave()
		return nil, openai.ErrErased
	}
	return &openAIOutput{ContentType: "text/event-stream", Body: func(hctx huma.Context) {
		defer leave()
		_, w := humago.Unwrap(hctx)
		ended, err := s.sendResponse(ctx, w, job, -1)
		if err != nil {
			s.Log.DebugContext(ctx, "stream ended early", "request", requestID(ctx), "err", err)
		}
		if key != nil || background {
			return
		}
		if err != nil || s.left(ctx) {
			ended = s.abandon(ctx, ended, clientLeft)
		}
		s.forget(ctx, ended)
	}}, nil
}

// followResponse streams the events of a response after a sequence number.
func (s *server) followResponse(ctx context.Context, job events.Job, after int) *openAIOutput {
	return &openAIOutput{ContentType: "text/event-stream", Body: func(hctx huma.Context) {
		_, w := humago.Unwrap(hctx)
		if hctx.Method() == http.MethodHead {
			hctx.SetStatus(http.StatusOK)
			return
		}
		if refused := s.streams.enter(job.Owner, s.MaxStreams, s.MaxAllStreams); refused != nil {
			s.refuse(hctx, refused)
			return
		}
		defer s.streams.leave(job.Owner)
		if _, err := s.sendResponse(ctx, w, job, after); err != nil {
			s.Log.DebugContext(ctx, "stream ended early", "request", requestID(ctx), "err", err)
		}
	}}
}

// sendResponse streams the events of a response after a sequence number, until the response
// has ended. It returns the job as the stream has seen it, and an error if the client does not
// read the stream. An error of the service is an event of the stream.
func (s *server) sendResponse(ctx context.Context, to http.ResponseWriter, job events.Job, after int) (events.Job, error) {
	seen := events.Job{ID: job.ID, Owner: job.Owner}
	ctx, w, done, err := s.begin(ctx, to)
	defer done()
	if err != nil {
		return job, err
	}
	stream := openai.NewResponseStream(s.Queue.Logprobs)
	var buf bytes.Buffer
	for batch, err := range s.Store.Follow(ctx, events.JobStream(job.ID), 0, s.timeouts.beat) {
		buf.Reset()
		for _, e := range batch {
			var list []openai.ResponseEvent
			if seen, list, err = applyResponse(stream, seen, e); err != nil {
				break
			}
			for _, event := range list {
				if event.Number > after {
					message{event: event.Type, data: event.Data}.write(&buf)
					after = event.Number
				}
			}
			if seen.State.Final() {
				break // an erasure after the end must not end the stream with an error
			}
		}
		if err != nil {
			p := s.interruption(ctx, err).Compat
			event := openai.StreamError(max(after, 0), p.Type, p.Message, p.Code, p.Param)
			message{event: event.Type, data: event.Data}.write(&buf)
		}
		if len(batch) == 0 && err == nil {
			buf.WriteString(heartbeat)
		}
		if buf.Len() > 0 {
			if _, failed := w.Write(buf.Bytes()); failed != nil {
				return latest(seen, job), failed
			}
		}
		if err != nil || seen.State.Final() {
			break
		}
	}
	return latest(seen, job), nil
}

// latest returns the later state of a job.
func latest(seen, before events.Job) events.Job {
	if seen.Version < before.Version {
		return before
	}
	return seen
}

// applyResponse applies an event of a job to the stream of its response and to the job. The
// error is openai.ErrErased for an event whose text is gone.
func applyResponse(stream *openai.ResponseStream, job events.Job, e events.Event) (events.Job, []openai.ResponseEvent, error) {
	if e.Erased {
		return job, nil, openai.ErrErased
	}
	list, err := stream.Apply(e)
	return stream.Job(), list, err
}
