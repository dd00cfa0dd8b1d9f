package errcode_test

import (
	"errors"
	"fmt"
	"testing"

	"colophon/internal/errcode"
)

func TestWrappedErrorKeepsItsCode(t *testing.T) {
	one, same := errcode.New("a_code", "a text"), errcode.New("a_code", "a text")
	wrapped := fmt.Errorf("while at work: %w", one)
	if !errors.Is(wrapped, one) || errors.Is(wrapped, same) {
		t.Errorf("%v is not the error that it wraps, or is another one of the same text", wrapped)
	}
	type coded interface {
		error
		Code() string
	}
	if got, ok := errors.AsType[coded](wrapped); !ok || got.Code() != "a_code" || got.Error() != "a text" {
		t.Errorf("%v, %v", got, ok)
	}
}
