package openai

import (
	"encoding/json"

	"colophon/events"
)

// A ResponseEvent is an event of a response's stream.
type ResponseEvent struct {
	Number int // sequence_number, from 0
	Type   string
	Data   json.RawMessage
}

// responseEvent is the data of an event. Each type of event has some of the members.
type responseEvent struct {
	Type           string        `json:"type"`
	SequenceNumber int           `json:"sequence_number"`
	Response       *Response     `json:"response,omitempty"`
	ItemID         string        `json:"item_id,omitempty"`
	OutputIndex    *int          `json:"output_index,omitempty"`
	ContentIndex   *int          `json:"content_index,omitempty"`
	Item           *ResponseItem `json:"item,omitempty"`
	Part           *ResponsePart `json:"part,omitempty"`
	Delta          *string       `json:"delta,omitempty"`
	Text           *string       `json:"text,omitempty"`
	Logprobs       []LogProb     `json:"logprobs,omitzero"`
}

// A ResponseStream makes the events of a response from those of its job. The events and their
// numbers are a function of the job's events alone, so every process of a release makes
// the same ones, whenever it begins. Only a process with another model leaves the log probabilities
// out.
type ResponseStream struct {
	job      events.Job
	record   responseRecord
	logprobs logprobCursor
	list     []ResponseEvent // events of the latest call of Apply
	next     int             // number of the next event
	failed   error
}

// NewResponseStream returns a stream before the first event of the job.
func NewResponseStream(logprobs Logprobs) *ResponseStream {
	return &ResponseStream{logprobs: newLogprobCursor(logprobs, 1)}
}

// Apply returns the events for the next event of the job. The job must be one of a response,
// and its events must not be erased.
func (s *ResponseStream) Apply(e events.Event) ([]ResponseEvent, error) {
	job, err := s.job.Apply(e)
	if err != nil {
		return nil, err
	}
	first := job.Attempts == 1 && s.job.Attempts == 0
	s.job, s.list = job, nil
	switch fact := e.Fact.(type) {
	case events.JobAccepted:
		s.record, _ = recordOf(job)
		s.response("response.created")
		if s.record.Background {
			s.response("response.queued")
		} else {
			s.response("response.in_progress")
		}
	case events.JobStarted:
		if first {
			s.begin()
		}
	case events.JobAdvanced:
		if fact.Text != "" { // the tokens may be cut off
			s.text(responseEvent{Type: "response.output_text.delta", Delta: &fact.Text, Logprobs: logProbs(s.logprobs.next(job, 0))})
		}
	case events.JobCompleted, events.JobCancelled:
		s.end()
	case events.JobFailed:
		if fact.Final {
			s.end()
		}
	}
	return s.list, s.failed
}

// Job returns the job up to the latest event.
func (s *ResponseStream) Job() events.Job { return s.job }

// begin adds the events of a text that begins.
func (s *ResponseStream) begin() {
	if s.record.Background {
		s.response("response.in_progress")
	}
	item := outputItem(s.job, "in_progress", s.logprobs.logprobs)
	item.Content = []ResponsePart{}
	s.add(responseEvent{Type: "response.output_item.added", OutputIndex: new(0), Item: &item})
	s.text(responseEvent{Type: "response.content_part.added", Part: new(outputPart("", nil))})
}

// end adds the events of a response that has ended. Neither specification has an event for a
// cancelled one. Its last event is response.incomplete, with a response whose status is
// cancelled.
func (s *ResponseStream) end() {
	state := status(s.job, s.record)
	if s.job.Attempts > 0 {
		item := outputItem(s.job, state, s.logprobs.logprobs)
		part := &item.Content[0]
		s.text(responseEvent{Type: "response.output_text.done", Text: &part.Text, Logprobs: part.Logprobs})
		s.text(responseEvent{Type: "response.content_part.done", Part: part})
		s.add(responseEvent{Type: "response.output_item.done", OutputIndex: new(0), Item: &item})
	}
	if state == string(events.Cancelled) {
		state = "incomplete"
	}
	s.response("response." + state)
}

// response adds an event with the response as it is.
func (s *ResponseStream) response(kind string) {
	s.add(responseEvent{Type: kind, Response: new(newResponse(s.job, s.record, s.logprobs.logprobs))})
}

// text adds an event about the text of the message.
func (s *ResponseStream) text(e responseEvent) {
	e.ItemID, e.OutputIndex, e.ContentIndex = messagePrefix+s.job.ID.String(), new(0), new(0)
	s.add(e)
}

func (s *ResponseStream) add(e responseEvent) {
	e.SequenceNumber = s.next
	s.next++
	data, err := json.Marshal(e)
	if err != nil && s.failed == nil {
		s.failed = err
	}
	s.list = append(s.list, ResponseEvent{Number: e.SequenceNumber, Type: e.Type, Data: data})
}

// StreamError returns the event that ends a stream before its response has ended. number is
// that of the last event before it, so a client that resumes after it misses nothing. It has
// the members of both specifications.
func StreamError(number int, kind, message string, code, param *string) ResponseEvent {
	type payload struct {
		Type    string  `json:"type"`
		Code    *string `json:"code"`
		Message string  `json:"message"`
		Param   *string `json:"param"`
	}
	data, err := json.Marshal(struct {
		payload
		SequenceNumber int     `json:"sequence_number"`
		Error          payload `json:"error"`
	}{payload{"error", code, message, param}, number, payload{kind, code, message, param}})
	if err != nil {
		data = []byte(`{"type":"error","sequence_number":0,"code":"internal","message":"internal","param":null,"error":{"type":"server_error","code":"internal","message":"internal","param":null}}`)
	}
	return ResponseEvent{Number: number, Type: "error", Data: data}
}
