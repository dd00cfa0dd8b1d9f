package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
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

// unmarshalJSON is json.Unmarshal for strings that arrive as they were meant:
// encoding/json puts U+FFFD where the text is broken, and says nothing.
func unmarshalJSON(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("the body is not valid UTF-8")
	}
	if loneSurrogate(data) {
		return errors.New(`a \u escape names half of a surrogate pair, which is no character`)
	}
	err := json.Unmarshal(data, v)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return errors.New("the body is not valid JSON: the mistake is at byte " + strconv.FormatInt(syntax.Offset, 10))
	}
	return err
}

// loneSurrogate reports whether JSON text has an escape from D800 to DFFF that
// is not half of a pair.
func loneSurrogate(data []byte) bool {
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		unit, ok := escapedUnit(data[i:])
		switch {
		case !ok:
			i++ // the character that is escaped
		case unit >= 0xD800 && unit < 0xDC00:
			low, ok := escapedUnit(data[i+6:])
			if !ok || low < 0xDC00 || low > 0xDFFF {
				return true
			}
			i += 11
		case unit >= 0xDC00 && unit <= 0xDFFF:
			return true
		default:
			i += 5
		}
	}
	return false
}

// escapedUnit returns the UTF-16 code unit of the \uXXXX that data begins with.
func escapedUnit(data []byte) (unit uint64, ok bool) {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	return unit, err == nil
}

// unmarshalForm reads a form as an object whose members are strings.
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
		object[name] = value[0]
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}
