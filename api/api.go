// Package api serves jobs, events and accounts over HTTP. It is the only package
// that knows HTTP and Huma.
//
// Clients may rely on the following:
//
//   - Every error is an RFC 9457 problem. Its instance is the request's id. A problem
//     never repeats a value that it refuses. At /token and /revoke it also has the members
//     of an OAuth2 error. Package net/http answers bytes that are not HTTP.
//   - If the answer to a new job is 202, the job is on record and goes on without the
//     client.
//   - The events of a job are numbered without gaps. Clients can read them again from
//     any number on.
//   - A resource of another account looks like a resource that does not exist.
//
// No database connection and no lock is held while a request waits for the model.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"colophon/events"
	"colophon/events/ledger"
	"colophon/internal/auth"
	"colophon/internal/flight"
	"colophon/internal/webhook"
	"colophon/jobs"
)

// Options holds the parts that New connects, and the settings of the operator.
type Options struct {
	Store    *events.Store
	Queue    *jobs.Queue
	Detector *jobs.Detector
	Auth     *auth.Service
	Ready    Ready
	Stopping context.Context // is done when the service stops; requests that wait are then answered
	Limits   Limits
	Log      *slog.Logger
	Ledger   *ledger.Log
	Model    jobs.Model // the model of new jobs

	// ChatTemplate makes the prompts of chat completions: jobs.TemplatePlain or
	// jobs.TemplateEOS. Empty switches chat completions off.
	ChatTemplate string

	// PrivateLog hides the log from everybody. Receipts of one's own jobs remain.
	PrivateLog bool

	// TrustedProxies are the networks of the proxies whose X-Forwarded-For header the
	// service trusts.
	TrustedProxies []netip.Prefix

	// Webhooks says which receivers of webhooks the operator allows beside public ones.
	Webhooks webhook.Policy

	// Local makes the API refuse a request whose Host is neither an address nor
	// localhost. Set Local if only this machine can reach the service. Without Local, a
	// web page could reach the service by making the page's own name resolve to this
	// machine (DNS rebinding).
	Local bool

	// MaxStreams bounds the open event streams of one account. MaxAllStreams bounds the
	// open event streams of all accounts together. For both, 0 means no limit.
	MaxStreams, MaxAllStreams int

	// CORSOrigins are the origins whose pages may use the API, such as
	// https://example.com or https://*.example.com; see CheckOrigins.
	CORSOrigins []string

	// Observe is called with every request that has been answered. It may be nil.
	Observe func(route string, status int, took time.Duration)

	timeouts timeouts // zero means productionTimeouts
}

// Ready returns no error while the service can serve requests. The warnings are for the
// operator and for everybody who can reach the service.
type Ready func(context.Context) (warnings []string, err error)

type server struct {
	Options
	api     huma.API
	counted map[string]bool // the patterns of all operations, which count their own requests
	origins origins
	streams streams

	readiness flight.Group[[]string]
	exhausted atomic.Pointer[time.Time] // the last time a request met an exhausted database
}

// newServer returns a server without operations.
func newServer(o Options) (*server, error) {
	origins, err := newOrigins(o.CORSOrigins)
	if err != nil {
		return nil, fmt.Errorf("allow origins: %w", err)
	}
	if o.timeouts == (timeouts{}) {
		o.timeouts = productionTimeouts
	}
	return &server{
		Options: o, origins: origins, counted: map[string]bool{},
		readiness: flight.Group[[]string]{Timeout: readyTimeout, Keep: readyFor},
	}, nil
}

// New returns the handler of the whole API.
func New(o Options) (http.Handler, error) {
	s, mux, err := build(o)
	if err != nil {
		return nil, err
	}
	return s.handler(mux.ServeMux), nil
}

// Description returns the OpenAPI description of the API as YAML.
func Description() ([]byte, error) {
	s, _, err := build(Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	p, err := s.publish()
	return p.yaml, err
}

// routes is a ServeMux that keeps a list of its patterns.
type routes struct {
	*http.ServeMux
	patterns []string
}

func (r *routes) Handle(pattern string, handler http.Handler) {
	r.patterns = append(r.patterns, pattern)
	r.ServeMux.Handle(pattern, handler)
}

func (r *routes) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	r.Handle(pattern, http.HandlerFunc(handler))
}

func build(o Options) (*server, *routes, error) {
	s, err := newServer(o)
	if err != nil {
		return nil, nil, err
	}
	mux := &routes{ServeMux: http.NewServeMux()}
	s.api = humago.New(mux, config())
	s.api.UseMiddleware(s.operationMiddlewares()...)
	s.bodySchemas() // before any operation that uses their types
	s.accounts()
	s.apiKeys()
	s.webhooks()
	s.keys()
	s.revocation()
	s.jobs()
	s.listing()
	s.tokenizing()
	s.usage()
	s.tickets()
	s.history()
	s.feed()
	s.audit()
	s.log(mux)
	s.receipts()
	s.detection()
	s.openai()
	s.health()
	s.descriptions(mux)
	if err := s.docs(mux); err != nil {
		return nil, nil, err
	}
	return s, mux, nil
}

func config() huma.Config {
	c := huma.DefaultConfig("Colophon", "1.0.0")
	c.Info.Description = "Text generation with GPT-2. The history of every text is on record. " +
		"Submit a job, then poll it, follow its events or wait for it."
	c.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	c.Info.Contact = &huma.Contact{Name: "The operator of this service"}
	c.Servers = []*huma.Server{{URL: "/", Description: "This service."}}
	c.Components.Schemas = huma.NewMapRegistry(schemasPath, schemaName)
	c.OpenAPIPath = ""  // document.go serves the description
	c.DocsPath = ""     // Huma's pages load scripts from other hosts; docs.go serves our own pages
	c.SchemasPath = ""  // no routes for single schemas
	c.CreateHooks = nil // no links to single schemas in answers
	c.Formats = formats()
	c.RejectUnknownQueryParameters = true
	c.Transformers = []huma.Transformer{identify}
	c.OnAddOperation = append(c.OnAddOperation, documentHeaders, document400, documentOAuth, strict)
	c.Components.Headers = commonHeaders()
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		bearer:       {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "An access token from POST /token."},
		keyScheme:    {Type: "http", Scheme: "bearer", BearerFormat: "sk-colophon-...", Description: "An API key from POST /keys. Each operation says which scope the key needs."},
		ticketScheme: {Type: "apiKey", In: "query", Name: ticketParam, Description: "A ticket from POST /jobs/{id}/ticket or /events/ticket. Send it without an Authorization header and with Accept: text/event-stream."},
	}
	c.Tags = []*huma.Tag{
		{Name: "accounts", Description: "Your account, its sessions and its API keys."},
		{Name: "administration", Description: "Other accounts, for auditors and administrators."},
		{Name: "jobs", Description: "Texts to generate, and their events."},
		{Name: "history", Description: "Completed texts."},
		{Name: "webhooks", Description: "Messages that tell your own services that a job has ended."},
		{Name: "openai", Description: "OpenAI's API, for its SDKs: the same jobs in OpenAI's form. docs/openai.md lists the fields."},
		{Name: "log", Description: "The signed log of all events, for everybody."},
		{Name: "service", Description: "The state of the service."},
	}
	return c
}

// identify completes the problems that Huma writes. It sets the instance of a problem to
// the request's id. For an OAuth2 endpoint, it also returns the problem in the form of
// OAuth2.
func identify(ctx huma.Context, _ string, body any) (any, error) {
	p, ok := body.(*Problem)
	if !ok {
		return body, nil
	}
	p.Instance = instance(ctx.Context())
	if isOAuth(ctx.Operation().Path) {
		return p.oauth(), nil
	}
	return p, nil
}

// register adds an operation with the limits, error responses and metadata that all
// operations share. If handle returns an error, problemOf turns the error into a problem.
func register[I, O any](s *server, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	op.MaxBodyBytes, op.BodyReadTimeout = -1, -1 // readBody applies both limits
	if op.Method != http.MethodGet {
		op.Errors = append(op.Errors, http.StatusForbidden)
	}
	if op.Security != nil {
		op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden)
		scoped(&op)
	}
	if roles := op.Metadata[rolesName]; roles != nil {
		op.Extensions = withMetadata(op.Extensions, "x-role", roles)
	}
	if _, ok := reflect.TypeFor[I]().FieldByName("Body"); ok {
		op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	// 422 is for unknown query parameters, which every operation refuses. 421 is for a
	// wrong Host; see Options.Local.
	op.Errors = append(op.Errors, http.StatusUnprocessableEntity, http.StatusMisdirectedRequest, http.StatusInternalServerError, http.StatusServiceUnavailable)
	if op.Metadata[limitName] != uncounted {
		op.Errors = append(op.Errors, http.StatusTooManyRequests)
	}
	if name, ok := op.Metadata[limitName].(string); ok && name != uncounted {
		s.Limits.named(name) // panics when the service starts if the name is unknown
	}
	s.counted[op.Method+" "+op.Path] = true
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		handled := ctx
		if op.Metadata[waitsName] == nil {
			var cancel context.CancelFunc
			handled, cancel = context.WithTimeout(ctx, requestTime)
			defer cancel()
		}
		out, err := handle(handled, in)
		if err != nil {
			return nil, s.problemOf(ctx, err).on(op.Path)
		}
		return out, nil
	})
}

// requestTime bounds the time of a request that does not wait for a job. Every statement
// has a bound of its own; see pg.Connect.
const requestTime = 20 * time.Second

// waitsName is the key of the metadata of operations that may wait for a job.
const waitsName = "waits"

// waits adds to an operation's metadata that the operation may wait for a job.
func waits(metadata map[string]any) map[string]any {
	return withMetadata(metadata, waitsName, true)
}

// waiting returns a context for a request that waits for events. If the service stops,
// the context ends with the cause errStopping. If the caller's session or API key ends, the
// context ends with the cause auth.ErrAccessToken or auth.ErrAPIKey.
func (s *server) waiting(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, forget := s.Auth.While(ctx, caller(ctx))
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.Stopping, func() { cancel(errStopping) })
	return ctx, func() { stop(); cancel(nil); forget() }
}

// errStopping ends waits and streams when the service stops. errExpired ends a stream
// when its access token or API key expires.
var (
	errStopping = errors.New("the service is stopping")
	errExpired  = errors.New("the access token or API key has expired")
)
