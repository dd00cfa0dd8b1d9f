package api_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"sync"
	"testing"

	"github.com/pb33f/jsonschema/v6"
)

// The schemas in the specification of OpenResponses that answers must have.
const (
	schemaOfResponses = "/components/schemas/ResponseResource"
	schemaOfEvents    = "/paths/~1responses/post/responses/200/content/text~1event-stream/schema"
)

// openResponses has the specification of OpenResponses by the names of its schemas. It is nil
// without the specification, which is no part of this repository.
var openResponses = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	const file = "../../shared/openresponses/openapi.json"
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	c, schemas := jsonschema.NewCompiler(), map[string]*jsonschema.Schema{}
	if err := c.AddResource("openresponses.json", document); err != nil {
		return nil, err
	}
	for _, name := range []string{schemaOfResponses, schemaOfEvents} {
		if schemas[name], err = c.Compile("openresponses.json#" + name); err != nil {
			return nil, err
		}
	}
	return schemas, nil
})

// mustFollowOpenResponses fails the test if an answer is not what the specification of
// OpenResponses demands. Without the specification, it checks nothing: the tests also look at
// each member themselves.
func mustFollowOpenResponses(t testing.TB, name string, raw []byte) {
	t.Helper()
	schemas, err := openResponses()
	if err != nil {
		t.Fatal(err)
	}
	if schemas == nil {
		return
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err == nil {
		err = schemas[name].Validate(value)
	}
	if err != nil {
		t.Errorf("%s: %v", raw, err)
	}
}
