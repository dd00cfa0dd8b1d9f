package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
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

// unmarshalJSON is json.Unmarshal for text that means one thing only and strings
// that arrive as they were meant: encoding/json puts U+FFFD where the text is
// broken, takes the last of members with one name, and says nothing.
func unmarshalJSON(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("the body is not valid UTF-8")
	}
	if loneSurrogate(data) {
		return errors.New(`a \u escape names half of a surrogate pair, which is no character`)
	}
	if err := checkNesting(data); err != nil {
		return err
	}
	err := json.Unmarshal(data, v)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return errors.New("the body is not valid JSON: the mistake is at byte " + strconv.FormatInt(syntax.Offset, 10))
	}
	return err
}

// maxDepth is how deep arrays and objects may stand in each other: far more than
// any request needs.
const maxDepth = 16

// checkNesting refuses JSON that is nested too deep, and objects with two members
// of one name, of which another reader may take the other one. What is no JSON at
// all is not for it to say.
func checkNesting(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // a number that is too large is somebody else's to refuse
	type level struct {
		names map[string]bool // nil in an array
		named bool            // the next token is the value of the last name
	}
	var open []level
	for {
		token, err := d.Token()
		if err != nil {
			return nil //nolint:nilerr // the end, or a mistake that json.Unmarshal will find too
		}
		if end := token == json.Delim('}') || token == json.Delim(']'); end {
			open = open[:len(open)-1]
			continue
		}
		if n := len(open) - 1; n >= 0 && open[n].names != nil && !open[n].named {
			name, _ := token.(string)
			if open[n].names[name] {
				return errors.New("an object names a member twice")
			}
			open[n].names[name], open[n].named = true, true
			continue
		} else if n >= 0 {
			open[n].named = false
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{names: map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{})
		}
		if len(open) > maxDepth {
			return fmt.Errorf("arrays and objects stand more than %d deep in each other", maxDepth)
		}
	}
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

// unmarshalForm reads a form as an object whose members are strings. Forms are
// OAuth2's, whose parameters are in lower case; nobody knows the others, and
// encoding/json would take Username for username.
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
		if !strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf || 'A' <= r && r <= 'Z' }) {
			object[name] = value[0]
		}
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}
