package api

import (
	"strings"
	"testing"
)

func TestIfNoneMatchComparesWholeTags(t *testing.T) {
	etag, err := etagOf(Job{State: "queued", QueuePosition: 2})
	if err != nil {
		t.Fatal(err)
	}
	if other, err := etagOf(Job{State: "queued", QueuePosition: 1}); err != nil || other == etag {
		t.Errorf("another position in the queue has the tag %s too, %v", other, err)
	}
	for header, want := range map[string]bool{
		"":                          false,
		etag:                        true,
		"W/" + etag:                 true,
		`"x", ` + etag + `,"y"`:     true,
		"*":                         true,
		`"x"`:                       false,
		strings.Trim(etag, `"`):     false,
		strings.ToLower(etag) + `"`: false,
		etag[:5] + `"`:              false,
	} {
		if got := matches(header, etag); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
}
