package client

import (
	"errors"
	"io"
	"net/http"
	"testing"
)

func TestDetectReturnsTheResult(t *testing.T) {
	s := newService(t)
	s.HandleFunc("POST /detect", func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); string(body) != `{"text":"a \"text\"\n"}` {
			t.Errorf("body %s", body)
		}
		text(`{"result":"found","tokens_scored":97,"key":"0123456789abcdef","unknown":"member"}`)(w, r)
	})
	got, err := s.client(Options{}).Detect(t.Context(), "a \"text\"\n")
	if want := (Detection{WatermarkFound, 97, "0123456789abcdef"}); err != nil || *got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

func TestDetectReturnsProblems(t *testing.T) {
	s := newService(t)
	s.answers("POST /detect", problem(422, CodeTextLength), text(`{}`))
	c := s.client(Options{})
	_, err := c.Detect(t.Context(), "a text")
	if p, ok := errors.AsType[*Problem](err); !ok || p.Code != CodeTextLength || len(s.requests()) != 1 {
		t.Errorf("%v after %d requests", err, len(s.requests()))
	}
	if _, err := c.Detect(t.Context(), "a text"); !errors.Is(err, ErrProtocol) {
		t.Errorf("%v for an answer without a result", err)
	}
}
