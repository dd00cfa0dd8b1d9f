package pgtest

import (
	"testing"
	"time"
)

// OneDay waits, within the last minute of a UTC day, until the day is over. Token
// budgets are counted by UTC day, so a test of one day's budget begins with it.
func OneDay(t testing.TB) {
	t.Helper()
	const day = 24 * time.Hour
	if left := day - time.Duration(time.Now().UnixNano())%day; left < time.Minute {
		t.Logf("waiting %s for midnight UTC", left)
		time.Sleep(left)
	}
}
