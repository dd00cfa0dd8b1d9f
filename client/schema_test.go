package client

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
)

// TestTypesMatchTheAPIDocument compares the types with the schemas in openapi.yaml. Both
// must have the same members.
func TestTypesMatchTheAPIDocument(t *testing.T) {
	file, err := os.ReadFile("../openapi/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	document, err := libopenapi.NewDocument(file)
	if err != nil {
		t.Fatal(err)
	}
	model, err := document.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]any{
		"Job": Job{}, "Params": Params{}, "Usage": Usage{}, "JobLinks": Links{}, "GenerateBody": JobRequest{},
		"EventBody": Event{}, "Reserved": Reserved{}, "TimingBody": Timings{}, "Fault": Fault{}, "RegisterOutputBody": Account{},
	} {
		proxy := model.Model.Components.Schemas.GetOrZero(name)
		if proxy == nil {
			t.Errorf("the document has no %s", name)
			continue
		}
		want := slices.Sorted(proxy.Schema().Properties.KeysFromOldest())
		members := map[string]bool{}
		for field := range reflect.TypeOf(value).Fields() {
			if member, _, _ := strings.Cut(field.Tag.Get("json"), ","); member != "-" {
				members[member] = true
			}
		}
		if got := slices.Sorted(maps.Keys(members)); !slices.Equal(got, want) {
			t.Errorf("%s: %T has %q, the document %q", name, value, got, want)
		}
	}
	enum := func(name, member string) (values []string) {
		for _, value := range model.Model.Components.Schemas.GetOrZero(name).Schema().Properties.GetOrZero(member).Schema().Enum {
			values = append(values, value.Value)
		}
		return values
	}
	if got := enum("Job", "state"); !slices.Equal(got, []string{string(Queued), string(Running), string(Completed), string(Failed), string(Cancelled)}) {
		t.Errorf("states %q", got)
	}
	if got := enum("EventBody", "type"); !slices.Equal(got, []string{JobAccepted, JobReassigned, JobStarted, JobAdvanced, JobCompleted, JobFailed, JobCancelled}) {
		t.Errorf("types of events %q", got)
	}
}
