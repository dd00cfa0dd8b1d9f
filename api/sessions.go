package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
)

// Session is a session of an account as its owner sees it.
type Session struct {
	ID          uuid.UUID `json:"id" format:"uuid" doc:"The session's id. The account's events about the session have it too."`
	CreatedAt   time.Time `json:"created_at" doc:"When the session began, with a sign-in."`
	RefreshedAt time.Time `json:"refreshed_at" doc:"When the session last got new tokens: at the sign-in or at a refresh."`
	ExpiresAt   time.Time `json:"expires_at" doc:"When the session ends, however often it is refreshed."`
	Current     bool      `json:"current" doc:"Whether the access token of this request belongs to the session."`
}

type sessionsOutput struct{ Body []Session }

type sessionInput struct {
	ID uuid.UUID `path:"id" format:"uuid" doc:"The session's id."`
}

// sessions registers the operations on the sessions of the caller's account.
func (s *server) sessions() {
	register(s, huma.Operation{
		OperationID: "list-sessions", Method: http.MethodGet, Path: "/users/me/sessions", Tags: []string{"accounts"},
		Summary:     "List your sessions, newest first",
		Description: "There are at most 100. Sessions that have ended are not in the list. The service does not store where a session is used.",
		Security:    private(),
	}, s.listSessions)
	register(s, huma.Operation{
		OperationID: "end-session", Method: http.MethodDelete, Path: "/users/me/sessions/{id}", Tags: []string{"accounts"},
		DefaultStatus: http.StatusNoContent,
		Summary:       "End one of your sessions",
		Description: "Every process refuses the session's access tokens within two seconds, and the session's open streams end. It can be the session of this request. " +
			"Ending a session that has ended changes nothing. The service forgets ended sessions after half an hour; then the answer is 404.",
		Security: private(),
		Errors:   []int{http.StatusNotFound},
	}, s.endSession)
	register(s, huma.Operation{
		OperationID: "sign-out-everywhere", Method: http.MethodDelete, Path: "/users/me/sessions", Tags: []string{"accounts"},
		DefaultStatus: http.StatusNoContent,
		Summary:       "Sign out everywhere",
		Description:   "Ends all sessions of the account, including this one. Its API keys stay valid.",
		Security:      private(),
	}, func(ctx context.Context, _ *struct{}) (*struct{}, error) {
		return nil, s.Auth.SignOutEverywhere(ctx, caller(ctx).Account)
	})
}

func (s *server) listSessions(ctx context.Context, _ *struct{}) (*sessionsOutput, error) {
	live, err := s.Auth.Sessions(ctx, caller(ctx).Account)
	if err != nil {
		return nil, err
	}
	out := &sessionsOutput{Body: make([]Session, len(live))}
	for i, l := range live {
		out.Body[i] = Session{l.ID, l.CreatedAt, l.RefreshedAt, l.ExpiresAt, l.ID == caller(ctx).Session}
	}
	return out, nil
}

func (s *server) endSession(ctx context.Context, in *sessionInput) (*struct{}, error) {
	return nil, s.Auth.EndSession(ctx, caller(ctx).Account, in.ID)
}
