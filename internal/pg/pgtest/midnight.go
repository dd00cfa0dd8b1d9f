package pgtest

import (
	"testing"
	"time"
)

// OneDay waits until the next UTC day if the current day ends within a minute. Token
// budgets are counted by UTC day, so a test of one day's budget calls OneDay first.
func OneDay(t testing.TB) {
	t.Helper()
	const day = 24 * time.Hour
	if left := day - time.Duration(time.Now().UnixNano())%day; left < time.Minute {
		t.Logf("waiting %s for midnight UTC", left)
		time.Sleep(left)
	}
}
