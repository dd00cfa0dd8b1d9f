package api

import "time"

// Timeouts shortens the timeouts of an API, for the tests of package api_test.
func (o *Options) Timeouts(body, answer, write, beat time.Duration) {
	o.timeouts = timeouts{body: body, answer: answer, write: write, beat: beat, texts: productionTimeouts.texts}
}

// TextsTimeout shortens the wait of a request of OpenAI's API for its texts.
func (o *Options) TextsTimeout(wait time.Duration) {
	o.timeouts = productionTimeouts
	o.timeouts.texts = wait
}
