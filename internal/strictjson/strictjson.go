// Package strictjson reads JSON from untrusted parties: requests, access tokens
// and the files of a model.
//
// The text must be exactly one JSON value in UTF-8, with nothing after the value. No object
// may have two members with the same name, because two programs may use different members.
// A \u escape must not be only half of a surrogate pair, because Go's decoder silently
// replaces such an escape. The text of an error never repeats the input.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// These values are the possible reasons of an Error.
var (
	ErrTruncated     = errors.New("the text ends early")
	ErrSyntax        = errors.New("syntax error")
	ErrNotObject     = errors.New("not a JSON object")
	ErrEncoding      = errors.New("invalid UTF-8")
	ErrSurrogate     = errors.New(`lone surrogate in a \u escape`)
	ErrDuplicateName = errors.New("duplicate member name")
	ErrTrailing      = errors.New("something follows the JSON value")
	ErrTooDeep       = errors.New("arrays and objects nested too deep")
)

// An Error describes a mistake in a JSON text and the position of the mistake.
type Error struct {
	Reason error
	Offset int64  // in bytes, from the start of the text
	Name   string // the name that the outermost object repeats, if the mistake is such a name
}

func (e *Error) Error() string { return fmt.Sprintf("%v at byte %d", e.Reason, e.Offset) }

func (e *Error) Unwrap() error { return e.Reason }

// Object reads one JSON object from r. It calls the function member for each member of the
// object, in the order of the text. The value is valid only during this call. If the
// function returns an error, Object stops and returns that error unchanged. Object wraps
// errors of r. It returns an *Error for a mistake in the text, after it has called the
// function for the members before the mistake.
func Object(r io.Reader, member func(name string, value []byte) error) error {
	d := jsontext.NewDecoder(r)
	start, err := d.ReadToken()
	if err != nil {
		return readError(d, err)
	}
	if start.Kind() != '{' {
		return &Error{Reason: ErrNotObject}
	}
	for d.PeekKind() != '}' {
		token, err := d.ReadToken()
		if err != nil {
			return readError(d, err)
		}
		name := token.String() // a copy, because token is valid only until the next call of d
		value, err := d.ReadValue()
		if err != nil {
			return readError(d, err)
		}
		if err := member(name, value); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return readError(d, err)
	}
	return readEnd(d)
}

// MaxDepth is the depth to which bodies of requests may nest arrays and objects. It is far
// more than any request needs.
const MaxDepth = 16

// Check returns an *Error unless data is exactly one JSON value. In this value arrays and
// objects may be nested up to the given depth.
func Check(data []byte, depth int) error {
	if !utf8.Valid(data) {
		return &Error{Reason: ErrEncoding, Offset: int64(validUTF8(data))}
	}
	err := check(jsontext.NewDecoder(bytes.NewReader(data)), depth)
	// Package encoding/json refuses all syntax errors of jsontext except an escape for
	// half of a surrogate pair.
	if e, ok := errors.AsType[*Error](err); ok && errors.Is(err, ErrSyntax) && json.Valid(data) {
		e.Reason = ErrSurrogate
	}
	return err
}

func check(d *jsontext.Decoder, depth int) error {
	for {
		_, err := d.ReadToken()
		if err != nil {
			return readError(d, err)
		}
		switch n := d.StackDepth(); {
		case n > depth:
			return &Error{Reason: fmt.Errorf("%w: more than %d", ErrTooDeep, depth), Offset: d.InputOffset()}
		case n == 0:
			return readEnd(d)
		}
	}
}

// readEnd returns an error unless the text ends after a complete value.
func readEnd(d *jsontext.Decoder) error {
	offset := d.InputOffset()
	_, err := d.ReadToken()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if _, ok := errors.AsType[*jsontext.SyntacticError](err); ok || err == nil {
		return &Error{Reason: ErrTrailing, Offset: offset}
	}
	return readError(d, err)
}

// readError converts an error of jsontext to an error of Object or Check.
func readError(d *jsontext.Decoder, err error) error {
	if errors.Is(err, io.EOF) { // the text ends where a value should begin
		return &Error{Reason: ErrTruncated, Offset: d.InputOffset()}
	}
	syntactic, ok := errors.AsType[*jsontext.SyntacticError](err)
	if !ok {
		return fmt.Errorf("read JSON: %w", err)
	}
	e := &Error{Reason: ErrSyntax, Offset: syntactic.ByteOffset}
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		e.Reason = ErrDuplicateName
		if name := syntactic.JSONPointer; name.Parent() == "" {
			e.Name = name.LastToken()
		}
	case errors.Is(err, io.ErrUnexpectedEOF):
		e.Reason = ErrTruncated
	}
	return e
}

// PlainNumbers returns a copy of a valid JSON text. In the copy each number has the
// shortest form of a float64, so that encoding/json reads 50.0 and 5e1 into an int. A
// number beyond the range of float64 becomes the largest float64. The original text stays
// unchanged.
func PlainNumbers(data []byte) ([]byte, error) {
	v := jsontext.Value(data).Clone()
	if err := v.Format(jsontext.CanonicalizeRawInts(true), jsontext.CanonicalizeRawFloats(true)); err != nil {
		return nil, fmt.Errorf("format JSON: %w", err)
	}
	return v, nil
}

// validUTF8 returns the number of bytes before the first byte that is not valid UTF-8.
func validUTF8(data []byte) int {
	n := 0
	for n < len(data) {
		r, size := utf8.DecodeRune(data[n:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		n += size
	}
	return n
}
