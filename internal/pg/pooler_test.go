package pg

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestSharedBackendsAreAPooler gives backends to two connections, as a server and as
// poolers do. Each letter is a backend, in the order in which the backends are given.
// shared must report true for every pooler and false for the server.
func TestSharedBackendsAreAPooler(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		given string // to the first connection twice, then to the second, and so on
		want  bool
	}{
		"a server":                          {"aabaabaab", false},
		"a pooler with one session":         {"aaa", true},
		"the session released last":         {"aaa", true},
		"two sessions in turn":              {"ab", true},
		"three sessions in turn":            {"abc", true},
		"another client takes a session":    {"aabb", true},
		"another client takes one at first": {"aabaaa", true},
	} {
		given := strings.Split(c.given, "")
		ask := func() (string, error) {
			if len(given) == 0 {
				return "", errors.New("asked again after the answer was known")
			}
			next := given[0]
			given = slices.Delete(given, 0, 1)
			return next, nil
		}
		if got, err := shared(ask, ask); got != c.want || err != nil {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
	broken := errors.New("cut off")
	if _, err := shared(func() (string, error) { return "", broken }, func() (string, error) { return "", broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
