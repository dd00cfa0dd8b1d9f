package openai

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"colophon/internal/strictjson"
)

// An Operation is the table of the fields of one operation's request body.
type Operation struct {
	// Honoured is the type of the body. Its members are the fields that have an effect, and
	// the hints.
	Honoured reflect.Type

	// Refused are the other fields of OpenAI's specification.
	Refused []Refused

	// Inner has a reader for each field with members of its own. A reader returns the value
	// without the members that ask for nothing, or a *Refusal. It returns a value of another
	// form unchanged. A refused field is read before its value is compared with its neutral
	// values.
	Inner map[string]func(value json.RawMessage, at string) (json.RawMessage, error)
}

// A Refused field of a request must be absent or have a neutral value: null, or one of
// Neutral.
type Refused struct {
	Name    string
	Neutral []string // JSON values that ask for nothing, in their shortest form
	Why     string
}

// These are reasons of several operations for refusing a field.
const (
	noCache      = "the service has no cache that clients control"
	noForm       = "the model is not held to a form"
	noSetting    = "the model has no such setting"
	noTools      = "the model does not call tools"
	notReasoning = "the model does not reason before it answers"
	notShortened = "the service does not shorten a conversation"
	oneTier      = "there is one tier"
	onlyText     = "the model reads and writes text alone"
	ownPolicy    = "the text policy of the service applies"
)

// A Refusal says which field of a request cannot be honoured.
type Refusal struct {
	param  string
	code   string
	reason string
}

// Code returns the error's code for programs.
func (r *Refusal) Code() string { return r.code }

// Param returns the name of the field, or "" if the client has chosen the name.
func (r *Refusal) Param() string { return r.param }

func (r *Refusal) Error() string { return r.reason }

// CheckModel returns a *Refusal unless a client has asked for the model of new jobs.
func CheckModel(asked, served string) error {
	if asked == served {
		return nil
	}
	return &Refusal{"model", "model_not_found", "the service has no model of this name"}
}

// Read removes refused fields with neutral values from a body, so that the rest has only
// fields of o.Honoured. It returns a *Refusal for a refused field with another value, and
// for a field that is in no specification. The names of such fields are not repeated: the
// client has chosen them, and may have mixed up a name and a secret value.
//
// Read returns a body unchanged that is not a JSON object in strict form. The reader of
// o.Honoured then says what is wrong with it.
func (o Operation) Read(body []byte) ([]byte, error) {
	if strictjson.Check(body, strictjson.MaxDepth) != nil {
		return body, nil //nolint:nilerr // the reader of o.Honoured reports it
	}
	return o.read(body, "")
}

// read is Read for an object at a place in the body, such as "messages[0].".
func (o Operation) read(object json.RawMessage, at string) (json.RawMessage, error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(object, &members) != nil || members == nil {
		return object, nil //nolint:nilerr // as in Read
	}
	for name, read := range o.Inner {
		if value, ok := members[name]; ok {
			var err error
			if members[name], err = read(value, at+name); err != nil {
				return nil, err
			}
		}
	}
	for _, f := range o.Refused {
		value, ok := members[f.Name]
		if !ok {
			continue
		}
		if !f.neutral(value) {
			return nil, unsupported(at+f.Name, f.Why)
		}
		delete(members, f.Name)
	}
	honoured := o.honoured()
	for name := range members {
		if !slices.Contains(honoured, name) {
			where := strings.TrimSuffix(at, ".")
			return nil, &Refusal{where, "unknown_parameter", cmp.Or(where, "the body") + " has an unknown parameter; known are " + strings.Join(o.known(), ", ")}
		}
	}
	return json.Marshal(members)
}

// unsupported returns the refusal of a parameter that is not honoured.
func unsupported(param, why string) *Refusal {
	return &Refusal{param, "unsupported_parameter", fmt.Sprintf("the parameter %s is not supported: %s", param, why)}
}

// maxElements bounds the lists that are read before a schema checks them. No schema of
// OpenAI's operations allows longer lists of objects.
const maxElements = 1024

// each returns a reader of a list, for [Operation.Inner]. read reads an element. Its place is
// the list's with an index, such as "messages[0]".
func each(read func(element json.RawMessage, at string) (json.RawMessage, error)) func(json.RawMessage, string) (json.RawMessage, error) {
	return func(value json.RawMessage, at string) (json.RawMessage, error) {
		var list []json.RawMessage
		if json.Unmarshal(value, &list) != nil || list == nil || len(list) > maxElements {
			return value, nil //nolint:nilerr // the schema refuses it, also a list that is too long
		}
		for i, element := range list {
			var err error
			if list[i], err = read(element, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return nil, err
			}
		}
		return json.Marshal(list)
	}
}

// inside returns a reader of an object, for [Operation.Inner].
func inside(o Operation) func(json.RawMessage, string) (json.RawMessage, error) {
	return func(value json.RawMessage, at string) (json.RawMessage, error) { return o.read(value, at+".") }
}

// neutral reports whether a value of a refused field asks for nothing.
func (f Refused) neutral(value json.RawMessage) bool {
	plain, err := strictjson.PlainNumbers(value)
	if err != nil {
		return false
	}
	return string(plain) == "null" || slices.Contains(f.Neutral, string(plain))
}

// honoured returns the names of the fields of o.Honoured.
func (o Operation) honoured() []string {
	var names []string
	for _, f := range reflect.VisibleFields(o.Honoured) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// known returns the names of all fields, in the order of the alphabet.
func (o Operation) known() []string {
	names := o.honoured()
	for _, f := range o.Refused {
		names = append(names, f.Name)
	}
	return slices.Sorted(slices.Values(names))
}

// unique panics if the table names a field twice. The tables are constant, so a test finds
// this.
func (o Operation) unique() Operation {
	seen := map[string]bool{}
	for _, name := range o.known() {
		if seen[name] {
			panic("two rows for " + name)
		}
		seen[name] = true
	}
	return o
}
