package events

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestDifferencesNamesEveryMember changes one member of a record after the other. Each
// change must be named, and prompts and texts must not be quoted.
func TestDifferencesNamesEveryMember(t *testing.T) {
	if got := differences(Record{}, Record{}); got != "" {
		t.Errorf("equal records: %q", got)
	}
	named := map[string]bool{}
	for i := range reflect.TypeFor[Record]().NumField() {
		var r Record
		switch field := reflect.ValueOf(&r).Elem().Field(i); field.Interface().(type) {
		case uuid.UUID:
			if reflect.TypeFor[Record]().Field(i).Name == "Job" {
				continue // identifies both records
			}
			field.Set(reflect.ValueOf(uuid.Max))
		case time.Time:
			field.Set(reflect.ValueOf(time.Unix(1, 0)))
		case bool:
			field.SetBool(true)
		case int:
			field.SetInt(7)
		default:
			field.SetString("secret")
		}
		got := differences(r, Record{})
		if got == "" || named[got] || strings.Contains(got, ";") {
			t.Errorf("%s: %q", reflect.TypeFor[Record]().Field(i).Name, got)
		}
		if named[got] = true; (r.Prompt != "" || r.Text != "") && strings.Contains(got, "secret") {
			t.Errorf("%q quotes a sealed value", got)
		}
	}
}
