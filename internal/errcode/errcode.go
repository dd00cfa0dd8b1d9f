// Package errcode makes sentinel errors that carry a code for programs, such as
// username_taken. The packages of the service define their errors with this package. The
// API has one table that maps codes to responses. So the packages do not depend on the
// API, and the table does not depend on the packages.
//
// An error without a code is internal. Its text is for the log only.
package errcode

type coded struct{ code, text string }

// New returns an error with a text for people and a code for programs. The error's method
// Code returns the code. As with errors.New, each call returns a distinct error, and
// errors.Is finds this error inside the errors that wrap it.
func New(code, text string) error { return &coded{code, text} }

func (e *coded) Error() string { return e.text }

// Code returns the error's code for programs.
func (e *coded) Code() string { return e.code }
