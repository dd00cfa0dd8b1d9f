package bench

import (
	"context"
	"errors"
	"testing"
	"time"

	"colophon/client"
)

// TestBusyCallIsRepeated makes a service that is busy twice. The third call must decide, and
// every other error must end the calls.
func TestBusyCallIsRepeated(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, last := range []error{nil, broken, &client.Problem{Status: 503, Code: "overloaded"}} {
		answers := []error{&client.Problem{Status: 503, Code: "busy", RetryAfter: time.Millisecond}, &client.Problem{Status: 503, Code: "busy"}, last}
		calls := 0
		err := patient(func(context.Context) error { calls++; return answers[calls-1] })(t.Context())
		if calls != 3 || !errors.Is(err, last) {
			t.Errorf("%d calls, %v, want %v", calls, err, last)
		}
	}
	left, leave := context.WithCancel(t.Context())
	err := patient(func(context.Context) error {
		leave()
		return &client.Problem{Status: 503, Code: "busy", RetryAfter: time.Hour}
	})(left)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the caller left: %v", err)
	}
}
