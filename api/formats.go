package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"colophon/internal/strictjson"
)

const formType = "application/x-www-form-urlencoded"

func formats() map[string]huma.Format {
	jsonFormat := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshalJSON}
	return map[string]huma.Format{
		"application/json": jsonFormat,
		"json":             jsonFormat,
		formType:           {Marshal: func(io.Writer, any) error { return errors.New("forms are read only") }, Unmarshal: unmarshalForm},
	}
}

// unmarshalJSON is json.Unmarshal for strict JSON. It accepts integers such as 50.0,
// which encoding/json refuses. It refuses invalid text, which encoding/json would replace
// with U+FFFD. It also refuses two members with the same name, of which encoding/json
// would take the last.
func unmarshalJSON(data []byte, v any) error {
	if err := strictjson.Check(data, strictjson.MaxDepth); err != nil {
		return fmt.Errorf("the body cannot be read as JSON: %w", err)
	}
	plain, err := strictjson.PlainNumbers(data)
	if err != nil || json.Unmarshal(plain, v) != nil {
		// The error of encoding/json would show Go types and the client's value.
		return errors.New("the body does not have the form that /docs describes")
	}
	return nil
}

// unmarshalForm reads a form as an object whose members are strings. Only OAuth2 requests
// are forms, and the names of OAuth2 parameters are in lower case. Parameters with other
// names are left out, because encoding/json would read Username as username. Empty
// parameters count as absent (RFC 6749, 3.2).
func unmarshalForm(data []byte, v any) error {
	values, err := url.ParseQuery(string(data))
	if err != nil {
		return errors.New("the body is not a valid form")
	}
	object := make(map[string]string, len(values))
	for name, value := range values {
		if len(value) != 1 {
			return errors.New("a field of the form is given more than once")
		}
		if !utf8.ValidString(name) || slices.ContainsFunc(value, func(s string) bool { return !utf8.ValidString(s) }) {
			return errors.New("the form is not valid UTF-8")
		}
		if value[0] != "" && !strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf || 'A' <= r && r <= 'Z' }) {
			object[name] = value[0]
		}
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return unmarshalJSON(raw, v)
}
