package api

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"colophon/events"
)

// generateStream streams the texts of jobs. It calls leave at the end of the stream.
func (s *server) generateStream(ctx context.Context, key *events.IdempotencyKey, group []events.Job, leave func(), out surface) *openAIOutput {
	return &openAIOutput{ContentType: "text/event-stream", Body: func(hctx huma.Context) {
		defer leave()
		_, w := humago.Unwrap(hctx)
		err := s.sendGroup(ctx, w, group, out.stream(group))
		if err != nil {
			s.Log.DebugContext(ctx, "stream ended early", "request", requestID(ctx), "err", err)
		}
		if key == nil && (err != nil || s.left(ctx)) {
			s.abandonGroup(ctx, group, s.reasonToAbandon(ctx))
		}
	}}
}

// sendGroup streams the texts of jobs. It returns an error if the client does not read the
// stream, and the *Problem of a job without a text. An error of a job, or of the service, is a
// message of the stream.
func (s *server) sendGroup(ctx context.Context, to http.ResponseWriter, group []events.Job, out surfaceStream) error {
	ctx, w, done, err := s.begin(ctx, to)
	defer done()
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	for batch, err := range s.progress(ctx, group, out) {
		if err != nil {
			batch = []message{openAIError(s.interruption(ctx, err))}
		}
		buf.Reset()
		for _, m := range batch {
			m.write(&buf)
		}
		if len(batch) == 0 {
			buf.WriteString(heartbeat)
		}
		if _, failed := w.Write(buf.Bytes()); failed != nil {
			return failed
		}
		if p, ok := errors.AsType[*Problem](err); ok {
			return p // a job has no text, so nobody needs the other texts of the request
		}
		if err != nil {
			return nil // the stream was interrupted, and the jobs go on
		}
	}
	return nil
}

// progress yields the messages of a stream until all jobs have ended. An empty batch is a
// heartbeat. A job without a complete text ends the sequence with its problem.
func (s *server) progress(ctx context.Context, group []events.Job, out surfaceStream) iter.Seq2[[]message, error] {
	return func(yield func([]message, error) bool) {
		all := make([]events.Job, len(group)) // folded again from the first event
		open := len(group)
		streams := make([]events.Stream, len(group))
		for i, job := range group {
			streams[i] = events.JobStream(job.ID)
		}
		for batch, err := range s.Store.FollowAll(ctx, streams, s.timeouts.beat) {
			if err != nil {
				yield(nil, err)
				return
			}
			var messages []message
			for _, e := range batch.Events {
				job, err := all[batch.Stream].Apply(e)
				if err != nil {
					yield(nil, err)
					return
				}
				all[batch.Stream] = job
				if job.State.Final() {
					if err := textless(job); err != nil {
						yield(nil, err)
						return
					}
				}
				more, err := out.chunks(all, batch.Stream, e.Fact)
				if err != nil {
					yield(nil, err)
					return
				}
				messages = append(messages, more...)
				if ends(e.Fact) {
					open--
				}
			}
			if open == 0 {
				last, err := out.end(all)
				if len(messages) > 0 && !yield(messages, nil) {
					return
				}
				yield(last, err)
				return
			}
			if (len(messages) > 0 || len(batch.Events) == 0) && !yield(messages, nil) {
				return
			}
		}
	}
}
