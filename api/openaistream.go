package api

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"colophon/events"
	"colophon/jobs"
)

// generateStream puts the jobs of a request on record and streams their texts. The stream
// counts as one of the account's.
func (s *server) generateStream(ctx context.Context, key *events.IdempotencyKey, requests []jobs.Request, out surface) (*openAIOutput, error) {
	account := caller(ctx).Account
	if refused := s.streams.enter(account, s.MaxStreams, s.MaxAllStreams); refused != nil {
		return nil, refused // before the jobs are on record
	}
	group, err := s.enqueueGroup(ctx, key, requests)
	if err != nil {
		s.streams.leave(account)
		return nil, err
	}
	return &openAIOutput{ContentType: "text/event-stream", Body: func(hctx huma.Context) {
		defer s.streams.leave(account)
		_, w := humago.Unwrap(hctx)
		err := s.sendGroup(ctx, w, group, out.stream(group))
		if err != nil {
			s.Log.DebugContext(ctx, "stream ended early", "request", requestID(ctx), "err", err)
		}
		if key == nil && (err != nil || s.left(ctx)) {
			s.abandonGroup(ctx, group, s.reasonToAbandon(ctx))
		}
	}}, nil
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

// step is a batch of events of one of several jobs.
type step struct {
	job   int
	batch []events.Event
	err   error
}

// progress yields the messages of a stream until all jobs have ended. An empty batch is a
// heartbeat. A job without a complete text ends the sequence with its problem.
func (s *server) progress(ctx context.Context, group []events.Job, out surfaceStream) iter.Seq2[[]message, error] {
	return func(yield func([]message, error) bool) {
		all := make([]events.Job, len(group)) // folded again from the first event
		open := len(group)
		for st := range s.followAll(ctx, group) {
			if st.err != nil {
				yield(nil, st.err)
				return
			}
			var messages []message
			for _, e := range st.batch {
				job, err := all[st.job].Apply(e)
				if err != nil {
					yield(nil, err)
					return
				}
				all[st.job] = job
				if job.State.Final() {
					if err := textless(job); err != nil {
						yield(nil, err)
						return
					}
				}
				more, err := out.chunks(all, st.job, e.Fact)
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
			if (len(messages) > 0 || len(st.batch) == 0) && !yield(messages, nil) {
				return
			}
		}
	}
}

// followAll yields the events of several jobs from the first on, those of each job in order.
// It does not end by itself.
func (s *server) followAll(ctx context.Context, group []events.Job) iter.Seq[step] {
	return func(yield func(step) bool) {
		ctx, cancel := context.WithCancel(ctx)
		steps := make(chan step)
		var followers sync.WaitGroup
		defer followers.Wait()
		defer cancel()
		for i, job := range group {
			followers.Go(func() {
				for batch, err := range s.Store.Follow(ctx, events.JobStream(job.ID), 0, s.timeouts.beat) {
					select {
					case steps <- step{i, batch, err}:
					case <-ctx.Done():
						return
					}
				}
			})
		}
		for {
			select {
			case st := <-steps:
				if !yield(st) {
					return
				}
			case <-ctx.Done():
				yield(step{err: ctx.Err()})
				return
			}
		}
	}
}
