package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
)

type historyInput struct {
	AsOf   string    `query:"as_of" format:"date-time" maxLength:"35" pattern:"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$" patternDescription:"an RFC 3339 time such as 2026-08-01T12:00:00Z (in a URL, + is %2B)" example:"2026-08-01T12:00:00Z" doc:"Answer with the list as it was at this time (RFC 3339; in a URL, + is written %2B). A time more than a second ahead of the service's clock is refused."`
	Before uuid.UUID `query:"before" format:"uuid" doc:"Only texts that were accepted before this job. The Link header of a page has the value for the next one."`
	Limit  int       `query:"limit" minimum:"1" maximum:"100" default:"50" doc:"The largest number of texts in the answer."`
}

type historyOutput struct {
	Link string `header:"Link" doc:"The next page as rel=next (RFC 8288), if this page is full."`
	Body []Job
}

func (s *server) history() {
	register(s, huma.Operation{
		OperationID: "history", Method: http.MethodGet, Path: "/history", Tags: []string{"history"},
		Summary: "List your completed texts, newest first",
		Description: "With the parameter as_of, the list has the texts that had completed by that time, and its pages do not change while more texts complete. " +
			"Texts that are erased are not shown, whatever the time. " + settled,
		Security: keyed(auth.ScopeRead),
	}, s.list)
}

func (s *server) list(ctx context.Context, in *historyInput) (*historyOutput, error) {
	records, err := s.records(ctx, in)
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if in.AsOf != "" {
		query.Set("as_of", in.AsOf)
	}
	out := &historyOutput{Link: olderLink("/history", query, records, in.Limit), Body: []Job{}}
	for _, r := range records {
		if r.State != events.StateDamaged {
			out.Body = append(out.Body, recordBody(r))
		}
	}
	return out, nil
}

// olderLink returns the Link header from a page of jobs to the page with older jobs. It is
// empty if the page is not full. The link repeats the parameters in query.
func olderLink(path string, query url.Values, page []events.Record, limit int) string {
	if len(page) < limit {
		return ""
	}
	query.Set("before", page[len(page)-1].Job.String())
	query.Set("limit", strconv.Itoa(limit))
	return fmt.Sprintf("<%s?%s>; rel=\"next\"", path, query.Encode())
}

func (s *server) records(ctx context.Context, in *historyInput) ([]events.Record, error) {
	owner := caller(ctx).Account
	if in.AsOf == "" {
		return s.Store.History(ctx, owner, in.Before, in.Limit)
	}
	asOf, err := parseTime(in.AsOf, "as_of")
	if err != nil {
		return nil, err
	}
	if err := s.reach(ctx, asOf, "as_of"); err != nil {
		return nil, err
	}
	return s.Store.HistoryAsOf(ctx, owner, in.Before, in.Limit, asOf)
}
