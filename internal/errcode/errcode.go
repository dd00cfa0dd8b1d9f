// Package errcode makes sentinel errors that carry a code for programs, such as
// username_taken. The packages of the service define theirs with it, and the API
// has one table from codes to answers; neither knows the other.
//
// An error without a code is internal: its text is for the log alone.
package errcode

type coded struct{ code, text string }

// New returns an error with a text for people and a code for programs, which its
// method Code returns. As with errors.New, each call returns a distinct error, and
// errors.Is finds it behind those that wrap it.
func New(code, text string) error { return &coded{code, text} }

func (e *coded) Error() string { return e.text }

// Code returns the code.
func (e *coded) Code() string { return e.code }
