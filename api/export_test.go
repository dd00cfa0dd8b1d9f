package api

import "time"

// Timeouts shortens the timeouts of an API, for the tests of package api_test.
func (o *Options) Timeouts(body, answer, write, beat time.Duration) {
	o.timeouts = timeouts{body: body, answer: answer, write: write, beat: beat}
}
