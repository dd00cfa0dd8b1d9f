package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
)

type historyInput struct {
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
		Summary:  "List your completed texts, newest first",
		Security: private(),
	}, s.list)
}

func (s *server) list(ctx context.Context, in *historyInput) (*historyOutput, error) {
	records, err := s.Store.History(ctx, caller(ctx).Account, in.Before, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &historyOutput{Body: make([]Job, len(records))}
	for i, r := range records {
		out.Body[i] = recordBody(r)
	}
	if len(records) == in.Limit {
		out.Link = fmt.Sprintf("</history?before=%s&limit=%d>; rel=\"next\"", records[len(records)-1].Job, in.Limit)
	}
	return out, nil
}
