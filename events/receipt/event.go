package receipt

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Event is the payload of a stored event: the bytes that the log commits to.
type Event struct {
	At      string            `json:"at"`               // time of the event by the service's clock
	Commit  map[string]string `json:"commit,omitempty"` // commitments to the secret members, in hexadecimal
	Fact    json.RawMessage   `json:"fact"`             // members that are not secret
	Owner   string            `json:"owner,omitempty"`  // schema 1 only
	Prev    string            `json:"prev,omitempty"`   // SHA-256 of the payload before in hexadecimal; empty in version 1 and in schema 1
	Schema  int               `json:"schema"`
	Stream  string            `json:"stream"`
	Type    string            `json:"type"`
	Version int               `json:"version"`
}

// timeFormat is the form of an event's time: RFC 3339 in UTC with six decimals.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// schema is the latest schema of events that this package knows.
const schema = 2

var (
	errPayload = errors.New("not the payload of an event in its canonical form")
	errNewer   = errors.New("a later version of the program wrote the event")
)

// ParseEvent reads a payload. It accepts only the one spelling in which the service writes an
// event, because two readers could understand another one differently.
func ParseEvent(payload []byte) (Event, error) {
	var e Event
	var version struct{ Schema int }
	if !Canonical(payload) || json.Unmarshal(payload, &version) != nil {
		return e, errPayload
	}
	if version.Schema > schema {
		return e, fmt.Errorf("%w: it has schema %d", errNewer, version.Schema)
	}
	if err := json.Unmarshal(payload, &e); err != nil {
		return e, errPayload
	}
	again, err := json.Marshal(e)
	if err != nil || !bytes.Equal(again, payload) {
		return e, errPayload
	}
	at, err := time.Parse(timeFormat, e.At)
	if err != nil || at.Format(timeFormat) != e.At || e.Schema < 1 || e.Version < 1 {
		return e, errPayload
	}
	if (e.Schema == 1) != (e.Owner != "") || (e.Prev != "") != (e.Schema > 1 && e.Version > 1) || e.Schema == 1 && e.Commit != nil {
		return e, errPayload
	}
	for _, hash := range e.Commit {
		if raw, err := hex.DecodeString(hash); err != nil || len(raw) != 32 || hex.EncodeToString(raw) != hash {
			return e, errPayload
		}
	}
	return e, nil
}

// Canonical reports whether a JSON text is compact, has sorted members and is escaped as
// encoding/json escapes it. The names of members must be lower-case ASCII, because
// encoding/json takes a name of another case for the same name.
func Canonical(text []byte) bool {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // keeps each number as it is written
	var v any
	if err := d.Decode(&v); err != nil || !lowerCase(v) {
		return false
	}
	again, err := json.Marshal(v)
	return err == nil && bytes.Equal(again, text) // false if something follows the value
}

// lowerCase reports whether all names of members in a decoded JSON value are lower-case
// ASCII.
func lowerCase(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if strings.ContainsFunc(name, func(c rune) bool { return c >= utf8.RuneSelf || unicode.IsUpper(c) }) || !lowerCase(value) {
				return false
			}
		}
	case []any:
		return !slices.ContainsFunc(v, func(value any) bool { return !lowerCase(value) })
	}
	return true
}
