package limit

import (
	"testing"
	"time"
)

// TestKeyHasALowerLimitOfItsOwn counts requests of keys that have limits of their own under a
// limit of 3. The lower limit must apply.
func TestKeyHasALowerLimitOfItsOwn(t *testing.T) {
	t.Parallel()
	l, err := InMemory("test", Rate{3, time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for key, c := range map[string]struct {
		own, want uint64
	}{"lowest": {1, 1}, "lower": {2, 2}, "equal": {3, 3}, "higher": {9, 3}} {
		for sent := uint64(1); sent <= 5; sent++ {
			count, err := l.Take(t.Context(), key, "")
			if err != nil {
				t.Fatal(err)
			}
			got := count.AtMost(c.own)
			if got.OK != (sent <= c.want) || got.Limit != c.want || got.Remaining != c.want-min(c.want, sent) || got.Reset != count.Reset {
				t.Errorf("%s, request %d: %+v", key, sent, got)
			}
		}
	}
}
