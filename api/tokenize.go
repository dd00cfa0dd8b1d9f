package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"colophon/internal/auth"
)

// TokenizeBody is the request body of /tokenize. With 5,000 characters of four bytes, all of
// them escaped, it has less than maxBody bytes.
type TokenizeBody struct {
	Text string `json:"text" maxLength:"5000" example:"The nature of light" doc:"The text to split into tokens."`
}

// TokenList is a text as tokens.
type TokenList struct {
	Tokens []int `json:"tokens" nullable:"false" doc:"The ids of the tokens, in order."`
	Count  int   `json:"count" doc:"The number of tokens."`
}

type (
	tokenizeInput  struct{ Body TokenizeBody }
	tokenizeOutput struct{ Body TokenList }
)

func (s *server) tokenizing() {
	register(s, huma.Operation{
		OperationID: "tokenize", Method: http.MethodPost, Path: "/tokenize", Tags: []string{"jobs"},
		Summary: "Split a text into tokens",
		Description: "Answers with the tokens that the model of new jobs would read. The service neither stores nor logs the text. " +
			"The text is taken as it is: POST /jobs first removes some characters from a prompt, see there. " +
			"The text <|endoftext|> has no special meaning.",
		Security: keyed(auth.ScopeRead),
	}, s.tokenize)
}

func (s *server) tokenize(_ context.Context, in *tokenizeInput) (*tokenizeOutput, error) {
	tokens, err := s.Model.Tokens(in.Body.Text)
	if err != nil {
		return nil, err
	}
	return &tokenizeOutput{TokenList{append([]int{}, tokens...), len(tokens)}}, nil
}
