package program

import "testing"

func TestEveryListOfTagsHasItsOwnCopy(t *testing.T) {
	names := map[string]bool{}
	for _, tags := range [][]string{nil, {"purego"}, {"purego", "other"}} {
		if name := keptName(tags); names[name] {
			t.Errorf("tags %q: %s is the copy of other tags", tags, name)
		} else {
			names[name] = true
		}
	}
}
