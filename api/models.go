package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"colophon/api/openai"
)

func (s *server) models() {
	register(s, huma.Operation{
		OperationID: "list-models", Method: http.MethodGet, Path: "/v1/models", Tags: []string{"openai"},
		Summary:  "List the models of new jobs, as OpenAI's API does",
		Security: keyed(anyScope),
	}, func(context.Context, *struct{}) (*struct{ Body openai.ModelList }, error) {
		return &struct{ Body openai.ModelList }{openai.ModelList{Object: "list", Data: []openai.Model{s.model()}}}, nil
	})
	register(s, huma.Operation{
		OperationID: "get-model", Method: http.MethodGet, Path: "/v1/models/{model}", Tags: []string{"openai"},
		Summary:  "Get a model, as OpenAI's API does",
		Security: keyed(anyScope),
		Errors:   []int{http.StatusNotFound},
	}, func(_ context.Context, in *modelInput) (*struct{ Body openai.Model }, error) {
		if err := openai.CheckModel(in.Model, s.Model.Name); err != nil {
			return nil, err
		}
		return &struct{ Body openai.Model }{s.model()}, nil
	})
}

type modelInput struct {
	Model string `path:"model" minLength:"1" maxLength:"200" example:"opticks" doc:"The model's name."`
}

// model returns the model of new jobs.
func (s *server) model() openai.Model {
	return openai.NewModel(s.Model, s.ChatTemplate)
}
