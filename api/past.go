package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"colophon/events"
)

// settled is the part of two descriptions that says from when on an answer for a time is
// final.
const settled = "The time of an event is taken just before it is put on record. So the answer for a time is final " +
	"when the transactions of that time have ended: after at most 10 s, unless the database commits more slowly or its clock is set back."

// moment is a point in a job's past, either a version or a time.
type moment struct {
	version int
	time    time.Time // zero if the moment is a version
}

// moment reads the query parameter at, which matches its pattern. If it is a time a little
// ahead, moment waits until the time has come.
func (s *server) moment(ctx context.Context, text string) (moment, error) {
	if version, err := strconv.Atoi(text); err == nil {
		return moment{version: version}, nil
	}
	t, err := parseTime(text, "at")
	if err != nil {
		return moment{}, err
	}
	return moment{time: t}, s.reach(ctx, t, "at")
}

// parseTime reads a time of a query parameter, which matches its pattern. The pattern does
// not know the lengths of the months.
func parseTime(text, name string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, newProblem(http.StatusUnprocessableEntity, "invalid_time", "the month of the time has no such day: send a day that exists").at("query." + name)
	}
	return t.UTC(), nil
}

// before reports whether the moment is before an event.
func (m moment) before(e events.Event) bool {
	if m.time.IsZero() {
		return e.Version > m.version
	}
	return e.At.After(m.time)
}

// maxAhead is the largest time by which a time in a request may be ahead of the service's
// clock. The clocks of clients, and of two processes of the service, differ a little.
const maxAhead = time.Second

// reach returns when the time t has come by the database's clock. It refuses a time that is
// more than maxAhead in the future, because nobody knows yet what the answer will be.
func (s *server) reach(ctx context.Context, t time.Time, name string) error {
	now, err := s.Store.Now(ctx)
	if err != nil {
		return err
	}
	ahead := t.Sub(now)
	if ahead > maxAhead {
		return newProblem(http.StatusUnprocessableEntity, "time_in_future",
			fmt.Sprintf("the time has not come yet, it is %s by the service's clock: leave %s out for the present state", now.Format(time.RFC3339), name)).at("query." + name)
	}
	select {
	case <-time.After(ahead):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pastJob answers with a job as GET /jobs/{id} would have answered at a moment, without the
// members that do not come from the job's events.
func (s *server) pastJob(ctx context.Context, in *getJobInput) (*getJobOutput, error) {
	at, refusal := s.moment(ctx, in.At)
	latest, past, err := s.Store.JobBefore(ctx, in.ID, at.before)
	if err := owned(ctx, latest, err); err != nil {
		return nil, err
	}
	if refusal != nil { // only after the job is known to be the caller's
		return nil, refusal
	}
	if past.Version == 0 {
		return nil, newProblem(http.StatusNotFound, "not_accepted_yet",
			fmt.Sprintf("the job did not exist yet: it was accepted at %s, as version 1", latest.AcceptedAt.Format(time.RFC3339Nano))).at("query.at")
	}
	if at.version > latest.Version {
		detail := fmt.Sprintf("the job has no such version yet: its latest is %d", latest.Version)
		if latest.State.Final() {
			detail = fmt.Sprintf("the job has no such version: it has ended with version %d", latest.Version)
		}
		return nil, newProblem(http.StatusNotFound, "no_such_version", detail).at("query.at")
	}
	if past.State.Final() {
		past.ErasedTokens = latest.ErasedTokens
	}
	body := s.jobBody(past)
	body.ErasedAt = optional(latest.ErasedAt) // says why the texts are missing, which the past job had
	return jobAnswer(body, "", in.IfNoneMatch)
}
