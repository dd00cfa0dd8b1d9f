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
		"Job": Job{}, "Params": Params{}, "TokenLogprob": TokenLogprob{}, "TokenLogprobs": TokenLogprobs{}, "RecordedLogprob": RecordedLogprob{}, "RecordedLogprobs": RecordedLogprobs{},
		"Watermark": Watermark{}, "Usage": Usage{}, "JobLinks": Links{}, "GenerateRequest": JobRequest{},
		"EventBody": Event{}, "FeedEvent": FeedEvent{}, "Reserved": Reserved{}, "Timings": Timings{}, "Fault": Fault{}, "RegisteredAccount": Account{}, "Detection": Detection{},
		"Session": Session{}, "UsageReport": UsageReport{}, "UsageDay": DayUsage{}, "UsageSum": UsageSum{}, "UsageBudget": Budget{},
		"APIKey": APIKey{}, "CreateKeyRequest": KeyRequest{},
	} {
		proxy := model.Model.Components.Schemas.GetOrZero(name)
		if proxy == nil {
			t.Errorf("the document has no %s", name)
			continue
		}
		described := map[string]bool{}
		for _, schema := range append(proxy.Schema().OneOf, proxy) {
			for member := range schema.Schema().Properties.KeysFromOldest() {
				described[member] = true
			}
		}
		want := slices.Sorted(maps.Keys(described))
		members := map[string]bool{}
		for _, field := range reflect.VisibleFields(reflect.TypeOf(value)) {
			if member, _, _ := strings.Cut(field.Tag.Get("json"), ","); member != "-" && !field.Anonymous {
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
	if got := enum("Job", "state"); !slices.Equal(got, []string{string(Queued), string(Running), string(Completed), string(Failed), string(Cancelled), string(Damaged)}) {
		t.Errorf("states %q", got)
	}
	if got := enum("Detection", "result"); !slices.Equal(got, []string{string(WatermarkFound), string(WatermarkNotFound), string(WatermarkTooShort)}) {
		t.Errorf("results of detections %q", got)
	}
	var types []string
	for _, schema := range model.Model.Components.Schemas.GetOrZero("EventBody").Schema().OneOf {
		types = append(types, schema.Schema().Properties.GetOrZero("type").Schema().Enum[0].Value)
	}
	if got := types; !slices.Equal(got, []string{JobAccepted, JobReassigned, JobStarted, JobAdvanced, JobCompleted, JobFailed, JobCancelled, JobErased}) {
		t.Errorf("types of events %q", got)
	}
}
