package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"colophon/api/openai"
	"colophon/events"
	"colophon/internal/auth"
	"colophon/jobs"
)

// openai adds the operations of OpenAI's API.
func (s *server) openai() {
	s.models()
	s.completions()
	s.chat()
	s.responses()
	s.inputFiles()
	s.batches()
}

// bodySchemas describes the types of bodies that have several wire forms, and biases of tokens.
func (s *server) bodySchemas() {
	schemas := s.api.OpenAPI().Components.Schemas
	schemas.RegisterTypeAlias(reflect.TypeFor[openai.Prompts](), reflect.TypeFor[promptsSchema]())
	schemas.RegisterTypeAlias(reflect.TypeFor[openai.Stop](), reflect.TypeFor[stopSchema]())
	schemas.RegisterTypeAlias(reflect.TypeFor[openai.LogitBias](), reflect.TypeFor[logitBiasSchema]())
	schemas.RegisterTypeAlias(reflect.TypeFor[openai.Messages](), reflect.TypeFor[messagesSchema]())
	schemas.RegisterTypeAlias(reflect.TypeFor[openai.Input](), reflect.TypeFor[inputSchema]())
	schemas.RegisterTypeAlias(reflect.TypeFor[openai.IncompleteDetails](), reflect.TypeFor[nullable[openai.IncompleteDetails]]())
	schemas.RegisterTypeAlias(reflect.TypeFor[openai.ResponseError](), reflect.TypeFor[nullable[openai.ResponseError]]())
	schemas.RegisterTypeAlias(reflect.TypeFor[openai.ResponseUsage](), reflect.TypeFor[nullable[openai.ResponseUsage]]())
	schemas.RegisterTypeAlias(reflect.TypeFor[openai.CompletionLogprobs](), reflect.TypeFor[nullable[openai.CompletionLogprobs]]())
	schemas.RegisterTypeAlias(reflect.TypeFor[openai.ChatLogprobs](), reflect.TypeFor[nullable[openai.ChatLogprobs]]())
	schemas.RegisterTypeAlias(reflect.TypeFor[openai.Metadata](), reflect.TypeFor[metadataSchema]())
}

// isOpenAI reports whether a path belongs to OpenAI's API.
func isOpenAI(path string) bool { return strings.HasPrefix(path, "/v1/") }

// openAICodes are the codes of OpenAI's API in place of codes of this service. Clients look
// for them, for example to shorten a conversation.
var openAICodes = map[string]string{"no_room": "context_length_exceeded"}

// patience is the longest Retry-After that OpenAI's clients may wait for. They would wait
// for hours until a budget is renewed.
const patience = time.Minute

// openAI makes p the problem of an operation of OpenAI's API. Its param is the name of a
// member of the body alone. If another try cannot succeed soon, p says so: without that,
// clients try twice more.
func (p *Problem) openAI(path string) *Problem {
	if param := p.Compat.Param; param != nil {
		name, ok := strings.CutPrefix(*param, "body.")
		if ok && name == "prompt" {
			name = openAIPrompts[path]
		}
		switch {
		case ok:
			p.Compat.Param = &name
		case *param == "body":
			p.Compat.Param = nil
		}
	}
	if code := p.Compat.Code; code != nil && openAICodes[*code] != "" {
		p.Compat.Code = new(openAICodes[*code])
	}
	if wait, err := time.ParseDuration(p.headers.Get("Retry-After") + "s"); err != nil || wait > patience {
		switch p.Status {
		case http.StatusConflict, http.StatusTooManyRequests:
			p = p.again(false)
		}
	}
	return p
}

// openAIPrompts has the member of the body that holds the prompt, for each path.
var openAIPrompts = map[string]string{"/v1/completions": "prompt", "/v1/chat/completions": "messages", responsesPath: "input", responsesPath + "/input_tokens": "input"}

// maxOpenAIBody is the largest body of OpenAI's operations in bytes. It has room for many
// prompts of the length of a context.
const maxOpenAIBody int64 = 1 << 20

// fieldsName names the metadata entry with the openai.Operation of an operation.
const fieldsName = "fields"

// openAIOperation completes an operation of OpenAI's API that makes jobs. fields is the
// table of its body.
func openAIOperation(op huma.Operation, fields openai.Operation) huma.Operation {
	op.Method, op.Tags = http.MethodPost, []string{"openai"}
	op.Security = keyed(auth.ScopeGenerate)
	op.Metadata = waits(limited("generate"))
	op.Metadata[perText] = true
	op.Metadata[fieldsName], op.Metadata[bodyLimitName] = fields, maxOpenAIBody
	op.Errors = append(op.Errors, http.StatusNotFound, http.StatusConflict, http.StatusGone)
	return op
}

// unsupported refuses a body with a field that its operation does not honour, and removes
// such fields if they ask for nothing.
func (s *server) unsupported(ctx huma.Context, next func(huma.Context)) {
	fields, ok := ctx.Operation().Metadata[fieldsName].(openai.Operation)
	if !ok {
		next(ctx)
		return
	}
	r, _ := humago.Unwrap(ctx)
	body, err := io.ReadAll(r.Body) // from memory, see readBody
	if err == nil {
		body, err = fields.Read(body)
	}
	if err != nil {
		s.refuse(ctx, s.problemOf(ctx.Context(), err))
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	next(ctx)
}

// surface turns the jobs of a request into the answers of one operation of OpenAI's API.
type surface struct {
	// answer returns the answer about ended jobs.
	answer func([]events.Job) any

	// stream returns the stream of accepted jobs.
	stream func([]events.Job) surfaceStream
}

// surfaceStream makes the messages of one stream.
type surfaceStream struct {
	// chunks returns the messages for an event of job i. Each job is folded up to its latest
	// event that the stream has seen, this one included. A job before its first event is the
	// zero job.
	chunks func(all []events.Job, i int, fact events.Fact) ([]message, error)

	// end returns the messages after the last event of all jobs.
	end func(all []events.Job) ([]message, error)
}

// openAIOutput is an answer as JSON, or a stream.
type openAIOutput struct {
	ContentType string `header:"Content-Type"`
	Body        func(huma.Context)
}

// generate puts the jobs of a request on record and answers with their texts, at once or as
// a stream. If the client disconnects before the end, the jobs are cancelled, unless the
// request has an idempotency key.
func (s *server) generate(ctx context.Context, key *events.IdempotencyKey, requests []jobs.Request, stream bool, out surface) (*openAIOutput, error) {
	group, leave, err := s.enqueueAndEnter(ctx, key, func() ([]jobs.Request, error) { return requests, nil })
	if err != nil {
		return nil, err
	}
	if stream {
		return s.generateStream(ctx, key, group, leave, out), nil
	}
	defer leave()
	if err := s.awaitTexts(ctx, key, group); err != nil {
		return nil, err
	}
	return s.json(ctx, out.answer(group)), nil
}

// awaitTexts waits until the jobs of a request have ended, for a limited time. The slice then
// has their last known states. If the wait ends before the jobs, awaitTexts cancels them, unless
// the client can come back with an idempotency key. It returns the problem of the first job
// without a complete text.
func (s *server) awaitTexts(ctx context.Context, key *events.IdempotencyKey, group []events.Job) error {
	ends := time.Now().Add(s.timeouts.texts)
	for i, job := range group {
		var err error
		// The deadline of a job bounds the wait too.
		if group[i], err = s.await(ctx, job, min(time.Until(ends), untilDeadline(job, s.Store.Clock().Now()))); err != nil {
			return err
		}
	}
	var problem error
	for i := 0; i < len(group) && problem == nil; i++ {
		problem = textless(group[i])
	}
	if slices.ContainsFunc(group, func(j events.Job) bool { return !j.State.Final() }) {
		reason := s.reasonToAbandon(ctx)
		if ctx.Err() == nil && s.Stopping.Err() == nil && !time.Now().Before(ends) {
			reason, problem = "the wait for the text is over", s.waitOver(key)
		}
		if key == nil {
			s.abandonGroup(ctx, group, reason)
		}
	}
	return problem
}

// waitOver returns the problem of a request whose wait has ended before its jobs.
func (s *server) waitOver(key *events.IdempotencyKey) *Problem {
	what := fmt.Sprintf("the text was not complete after %.0f seconds", s.timeouts.texts.Seconds())
	if key == nil {
		// Another try would begin again, and wait as long.
		return newProblem(http.StatusServiceUnavailable, "wait_over", what+", so its job was cancelled: ask for a shorter text, a stream, or a response in the background").
			retryAfter(jobsWait).again(false)
	}
	return newProblem(http.StatusServiceUnavailable, "wait_over", what+", and its job goes on: send the request again with the same Idempotency-Key").
		retryAfter(time.Second).again(true)
}

// reasonToAbandon returns the reason for which the jobs of a request are cancelled before its
// end.
func (s *server) reasonToAbandon(ctx context.Context) string {
	if s.left(ctx) {
		return clientLeft
	}
	return "the request was interrupted" // nobody learns the ids of the jobs
}

// overtime is how long after its deadline a job may take to end.
const overtime = time.Minute

// untilDeadline returns the time that is left until a job has surely ended.
func untilDeadline(job events.Job, now time.Time) time.Duration {
	return max(0, job.Deadline.Sub(now)) + overtime
}

// textless returns the problem of a job without a complete text, and otherwise nil.
func textless(job events.Job) error {
	p := unsuccessful(job)
	switch {
	case p != nil && p.Status == http.StatusInternalServerError:
		return p.again(false) // the service has tried as often as it does
	case p != nil:
		return p
	case job.State != events.Completed:
		return newProblem(http.StatusServiceUnavailable, "interrupted", "the request was interrupted: try again").retryAfter(time.Second)
	}
	return nil
}

// json returns an answer with a JSON body.
func (s *server) json(ctx context.Context, body any) *openAIOutput {
	return &openAIOutput{ContentType: "application/json", Body: func(hctx huma.Context) {
		hctx.SetStatus(http.StatusOK)
		if err := huma.DefaultJSONFormat.Marshal(hctx.BodyWriter(), body); err != nil {
			s.Log.DebugContext(ctx, "answer not written", "request", requestID(ctx), "err", err)
		}
	}}
}

// enqueueAndEnter is enqueueGroup for a request that waits for its jobs or streams them. The
// request counts as one of the account's open streams, before its jobs are on record, until
// the caller calls leave.
func (s *server) enqueueAndEnter(ctx context.Context, key *events.IdempotencyKey, requests func() ([]jobs.Request, error)) (group []events.Job, leave func(), err error) {
	account := caller(ctx).Account
	if refused := s.streams.enter(account, s.MaxStreams, s.MaxAllStreams); refused != nil {
		return nil, nil, refused
	}
	if group, err = s.enqueueGroup(ctx, key, requests); err != nil {
		s.streams.leave(account)
		return nil, nil, err
	}
	return group, func() { s.streams.leave(account) }, nil
}

// enqueueGroup counts the texts of a request and puts their jobs on record. A repetition of a
// request with an idempotency key gets the jobs of the first one, before anything is counted,
// and before requests is called: what made the request possible may be gone. Like enqueue, it
// goes on even if the client disconnects.
func (s *server) enqueueGroup(ctx context.Context, key *events.IdempotencyKey, requests func() ([]jobs.Request, error)) ([]events.Job, error) {
	undisturbed, cancel := context.WithTimeout(context.WithoutCancel(ctx), acceptTimeout)
	defer cancel()
	if group, repeated, err := s.Queue.Repeated(undisturbed, key); repeated {
		return group, err
	}
	list, err := requests()
	if err != nil {
		return nil, err
	}
	if err := s.countTexts(undisturbed, len(list)); err != nil {
		return nil, err
	}
	for i, r := range list {
		list[i] = byAPIKey(ctx, r)
	}
	return s.Queue.SubmitGroup(undisturbed, caller(ctx).Account, key, list)
}

// abandonGroup cancels the jobs of a request that nobody waits for any more. The slice then has
// the ended jobs.
func (s *server) abandonGroup(ctx context.Context, group []events.Job, reason string) {
	for i, job := range group {
		group[i] = s.abandon(ctx, job, reason)
	}
}

// openAIKey returns the idempotency key of a request, or nil. The key's payload is the
// decoded body, so that the spelling of the JSON does not matter.
func openAIKey(ctx context.Context, in *Idempotent, path string, body any) (*events.IdempotencyKey, error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return in.key(caller(ctx).Account.String()+" POST "+path, payload)
}

// openAIError returns the message that ends a stream with a problem.
func openAIError(p *Problem) message {
	data, err := json.Marshal(struct {
		Error ErrorObj `json:"error"`
	}{p.Compat})
	if err != nil {
		data = []byte(`{"error":{"message":"internal","type":"server_error","param":null,"code":"internal"}}`)
	}
	return message{data: data}
}

// interruption returns the problem of a stream that ends before its jobs.
func (s *server) interruption(ctx context.Context, err error) *Problem {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errStopping), errors.Is(cause, errExpired):
		return newProblem(http.StatusServiceUnavailable, "interrupted", cause.Error()+": the text goes on, GET /jobs/{id} has it")
	case unauthenticated(cause):
		return s.problemOf(ctx, cause)
	}
	return s.problemOf(ctx, err)
}
