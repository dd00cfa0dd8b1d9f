package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"strconv"
	"time"
)

// streamSilence is the longest silence of a stream before the client reconnects. The
// service sends a heartbeat every ten seconds.
const streamSilence = 15 * time.Second

// streamEnd and maxStreamEnd are limits for the end of a stream after the job's last
// event. The client waits no longer than streamEnd and reads at most maxStreamEnd bytes.
const (
	streamEnd    = time.Second
	maxStreamEnd = 4 << 10
)

// Events returns the stored events of a job whose version is later than after. With
// version 0 it returns all of them.
func (c *Client) Events(ctx context.Context, id string, after int) ([]Event, error) {
	r := &Request{Path: jobPath(id) + "/events?after=" + strconv.Itoa(after)}
	var events []Event
	if _, err := c.call(ctx, r, &events); err != nil {
		return nil, err
	}
	for i, e := range events {
		if e.Version != after+1+i {
			return nil, failed(r, outOfOrder(e.Version, after+i))
		}
	}
	return events, nil
}

func outOfOrder(version, after int) error {
	return fmt.Errorf("%w: event %d follows event %d", ErrProtocol, version, after)
}

// Follow yields the events of a job whose version is later than after, as they arrive. It
// yields each event exactly once and in order, up to the last event. With version 0 it
// yields all events.
//
// Follow reconnects when the stream breaks off, when the stream is silent for 15 s, or
// when the service asks for a reconnection. Follow resumes after the last event that it
// has yielded. Three errors end Follow: the end of ctx, an answer that a retry would not
// change, and Options.Tries connections in a row that bring nothing.
func (c *Client) Follow(ctx context.Context, id string, after int) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		f := &follower{client: c, path: jobPath(id) + "/events", last: int64(after), tries: tries{limit: c.tries}}
		f.take = func(m Message) error {
			e, err := jobEvent(m, int(f.last))
			if err != nil {
				return err
			}
			f.last = int64(e.Version)
			switch {
			case !yield(e, nil):
				return errDone
			case e.Ends():
				return errLast
			}
			return nil
		}
		f.explainEmpty = func(ctx context.Context) error { return c.explainEmpty(ctx, id, int(f.last)) }
		if err := f.run(ctx); err != nil {
			yield(Event{}, failed(f.request(), err))
		}
	}
}

// follower reads a stream over as many connections as it takes.
type follower struct {
	client *Client
	path   string
	first  int64 // the id before the first event
	last   int64 // id of the last event
	tries  tries

	// take reads the event of a message, notes its id as last, and yields it. It returns
	// errDone if the caller wants no more, and errLast after the last event of the stream.
	take func(Message) error

	// explainEmpty returns errDone if a connection was empty because there are no more
	// events, or else why it was.
	explainEmpty func(context.Context) error
}

var (
	// errDone ends a follower when the caller has all events or wants no more.
	errDone = errors.New("done")

	// errLast follows the last event of a stream.
	errLast = errors.New("the last event")

	// errSilent is the cause of the end of a connection that was silent for too long.
	errSilent = errors.New("the stream is silent")

	// errCut is the error of a connection that ended before the stream's last event.
	errCut = errors.New("the stream ended before its last event")
)

// run reads the stream until the caller has all events or wants no more. It returns an error
// if it cannot go on.
func (f *follower) run(ctx context.Context) error {
	for {
		pause, err := f.connect(ctx)
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			err = f.tries.again(ctx, err)
		} else {
			err = sleep(ctx, pause)
		}
		if err != nil {
			return err
		}
	}
}

func (f *follower) request() *Request {
	r := &Request{Path: f.path}
	r.setHeader("Accept", "text/event-stream")
	if f.last > f.first {
		r.setHeader("Last-Event-ID", strconv.FormatInt(f.last, 10))
	}
	return r
}

// connect takes the events of one connection. It returns errDone if there is nothing
// more to yield. It returns a pause and no error if the service asked for a reconnection
// after that pause. Any other error says why the connection ended.
func (f *follower) connect(ctx context.Context) (pause time.Duration, err error) {
	c := f.client
	ctx, hangUp := context.WithCancelCause(ctx)
	defer hangUp(nil)
	quiet := time.AfterFunc(c.timeout, func() { hangUp(errSilent) })
	defer quiet.Stop()
	resp, err := c.open(ctx, f.request())
	if err != nil {
		return 0, f.cause(ctx, err)
	}
	defer resp.Body.Close()
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media != "text/event-stream" {
		return 0, fmt.Errorf("%w: Content-Type %q of a stream", ErrProtocol, resp.Header.Get("Content-Type"))
	}
	var last Message
	empty := true
	for m, err := range Messages(timedReader{resp.Body, quiet, c.silence}) {
		if err != nil {
			return 0, f.cause(ctx, err)
		}
		last, empty, f.tries.failed = m, false, 0
		if m.Data == "" {
			continue
		}
		err := f.take(m)
		if errors.Is(err, errLast) {
			// The transport can reuse the connection only after the answer has been read
			// to its end.
			quiet.Reset(streamEnd)
			_, _ = io.CopyN(io.Discard, resp.Body, maxStreamEnd)
			return 0, errDone
		}
		if err != nil {
			return 0, err
		}
	}
	if ms, err := strconv.Atoi(last.Retry); err == nil {
		return min(time.Duration(ms)*time.Millisecond, longestRetryAfter), nil
	}
	if empty {
		return 0, f.explainEmpty(ctx)
	}
	return 0, errCut
}

// cause returns the reason why a connection ended. If the reason is errSilent, err is
// only the cancellation that followed from it.
func (f *follower) cause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		return cause
	}
	if errors.Is(err, errMessageTooLong) {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return err
}

// jobEvent reads the event of a message. The event must directly follow the last event.
func jobEvent(m Message, last int) (e Event, err error) {
	if err := json.Unmarshal([]byte(m.Data), &e); err != nil {
		return e, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if m.ID != strconv.Itoa(e.Version) {
		return e, fmt.Errorf("%w: event %d has the id %q", ErrProtocol, e.Version, m.ID)
	}
	if e.Version != last+1 {
		return e, outOfOrder(e.Version, last)
	}
	return e, nil
}

// explainEmpty finds out why the stream of a job was empty, by requesting the job. It
// returns errDone if the caller has seen the job's last event. It returns errCut if the
// stream was cut before that event.
func (c *Client) explainEmpty(ctx context.Context, id string, last int) error {
	resp, err := c.try(ctx, &Request{Path: jobPath(id)})
	if err != nil {
		return err
	}
	var job Job
	if err := json.Unmarshal(resp.Body, &job); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if job.State.Final() && job.Version <= last {
		return errDone
	}
	return errCut
}

// timedReader limits the time of each read. The limit does not cover the time that the
// caller spends on an event.
type timedReader struct {
	io.Reader
	quiet   *time.Timer
	silence time.Duration
}

func (r timedReader) Read(b []byte) (int, error) {
	r.quiet.Reset(r.silence)
	defer r.quiet.Stop()
	return r.Reader.Read(b)
}
