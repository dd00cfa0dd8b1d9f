package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/yaml"

	"colophon/events"
)

// This file turns Huma's OpenAPI description into the published one, which has more details and
// avoids what linters and client generators refuse. Huma still checks requests against its own
// description.

// object is an object of the description.
type object = map[string]any

const schemasPath = "#/components/schemas/"

// schemaName gives schemas names that do not depend on how the code is written. Huma names
// the body of an operation after the type of its input or output.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	if ours := schemaNames[name]; ours != "" {
		return ours
	}
	for ending, ours := range map[string]string{"InputBody": "Request", "OutputBody": ""} {
		if short, ok := strings.CutSuffix(name, ending); ok {
			return short + ours
		}
	}
	return name
}

// schemaNames has the names of schemas that follow no rule. None ends with Response, because
// generators give such names to the answers of operations.
var schemaNames = map[string]string{
	"BatchBody":           "CreateBatchRequest",
	"ChatBody":            "ChatCompletionRequest",
	"CompletionBody":      "CompletionRequest",
	"ErrorObj":            "ErrorObject",
	"GenerateBody":        "GenerateRequest",
	"InputTokens":         "TokenCount",
	"InputTokensBody":     "CountTokensRequest",
	"InputTokensDetails":  "PromptTokensDetails",
	"OutputTokensDetails": "GeneratedTokensDetails",
	"ReadyOutputBody":     "Readiness",
	"RegisterOutputBody":  "RegisteredAccount",
	"Response":            "ResponseObject",
	"ResponseBody":        "ResponseRequest",
	"TicketOutputBody":    "StreamTicket",
	"TimingBody":          "Timings",
	"TokenOutputBody":     "Tokens",
	"TokenizeBody":        "TokenizeRequest",
}

// jobFacts has a fact of each type that a job's stream can have.
var jobFacts = []events.Fact{
	events.JobAccepted{}, events.JobReassigned{}, events.JobStarted{}, events.JobAdvanced{},
	events.JobCompleted{}, events.JobFailed{}, events.JobCancelled{}, events.JobErased{},
}

// document returns the published description, in OpenAPI 3.1.
func (s *server) document() (object, error) {
	raw, err := json.Marshal(s.api.OpenAPI())
	if err != nil {
		return nil, err
	}
	var doc object
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	schemas := doc["components"].(object)["schemas"].(object)
	eachObject(doc, func(o object) {
		delete(o, "patternDescription") // an invention of Huma
		if o["additionalProperties"] == true {
			delete(o, "additionalProperties") // it is the default, and some generators fail on it
		}
	})
	for _, item := range doc["paths"].(object) {
		for _, op := range item.(object) {
			if op := op.(object); op["security"] == nil {
				op["security"] = []any{} // for everybody
			}
		}
	}
	requests := reachable(doc, schemas)
	for name, schema := range schemas {
		schema := schema.(object)
		if schema["description"] == nil && schemaDocs[name] != "" {
			schema["description"] = schemaDocs[name]
		}
		for _, property := range properties(schema) {
			if requests[name] {
				describeDefault(property)
			} else {
				neverNull(property)
			}
		}
	}
	return doc, eventsByType(schemas)
}

// schemaDocs describes schemas. Descriptions of members are beside the members in the code.
var schemaDocs = map[string]string{
	"APIKey":                 "An API key, without its secret.",
	"Account":                "An account as auditors see it.",
	"AccountEvent":           "An event of an account. The type decides which other members are present.",
	"AuditEvent":             "An event of the log as auditors see it, without texts.",
	"Batch":                  "Requests that are answered over time, in OpenAI's form.",
	"BatchCounts":            "Numbers of lines of a batch.",
	"BatchError":             "A fault of the input of a batch.",
	"BatchErrors":            "Why the input of a batch cannot be processed.",
	"BatchLine":              "A line of a batch.",
	"BatchList":              "Batches, in OpenAI's form.",
	"ChatChoice":             "One of the answers of a chat.",
	"ChatCompletion":         "Answers of a chat, in OpenAI's form.",
	"ChatCompletionRequest":  "The chat to continue, in OpenAI's form.",
	"ChatMessage":            "A message of a chat.",
	"Completion":             "Texts, in OpenAI's form.",
	"CompletionChoice":       "One of the texts.",
	"CompletionRequest":      "The texts to generate, in OpenAI's form.",
	"CompletionUsage":        "Numbers of model tokens, in OpenAI's form.",
	"CountTokensRequest":     "The input whose tokens to count, in OpenAI's form.",
	"CreateBatchRequest":     "The batch to begin, in OpenAI's form.",
	"CreateKeyRequest":       "The API key to create.",
	"CreateWebhookRequest":   "The webhook to create.",
	"CreatedAPIKey":          "A new API key, with its secret.",
	"CreatedWebhook":         "A webhook with its new secret.",
	"Delivery":               "A message to a webhook.",
	"DeliveryAttempt":        "An attempt at a message.",
	"DetectRequest":          "The text to examine.",
	"Detection":              "The result of a search for a watermark.",
	"EraseRequest":           "The confirmation of an erasure.",
	"ErrorObject":            "A problem in OpenAI's form.",
	"Fault":                  "One fault of a request.",
	"FeedEvent":              "An event of one of your jobs, as EventBody, or of your account, as AccountEvent. The type decides which other members are present.",
	"File":                   "The input of batches, or an output of a batch, in OpenAI's form.",
	"FileDeleted":            "The confirmation that a file was deleted.",
	"FileList":               "Files, in OpenAI's form.",
	"GenerateRequest":        "The text to generate.",
	"GeneratedTokensDetails": "Kinds of generated tokens.",
	"Health":                 "The state of the process.",
	"JWK":                    "A public key that access tokens are signed with (RFC 7517, RFC 8037).",
	"JWKSet":                 "The public keys that access tokens are signed with (RFC 7517).",
	"Job":                    "A job and its text so far.",
	"JobLinks":               "The routes of a job, relative to the service.",
	"LogprobsRequest":        "The log probabilities to compute.",
	"LogProb":                "The log probabilities at the position of a token, in OpenAI's form.",
	"Model":                  "The model of new jobs, in OpenAI's form.",
	"ModelList":              "The models, in OpenAI's form.",
	"OAuthProblem":           "A problem in the form of OAuth2 (RFC 6749).",
	"Params":                 "The values that determine the text of a job, together with the prompt and the weights.",
	"PasswordRequest":        "The current password and a new one.",
	"Problem":                "What is wrong (RFC 9457).",
	"PromptTokensDetails":    "Kinds of tokens of the prompt.",
	"Readiness":              "The state of the service.",
	"RecordedLogprob":        "A token with its log probability, as they are on record.",
	"RecordedLogprobs":       "The log probabilities at one position of a text, as they are on record.",
	"RegisterRequest":        "The account to create.",
	"RegisteredAccount":      "The new account.",
	"Reserved":               "A part of a token budget.",
	"ResponseDeleted":        "The confirmation that a response was erased.",
	"ResponseFormat":         "The format of the text.",
	"ResponseItem":           "A message of a response.",
	"ResponseItemList":       "Messages of a response.",
	"ResponseObject":         "A job in the form of OpenAI's responses.",
	"ResponsePart":           "A part of a message.",
	"ResponseReasoning":      "The reasoning of a response, of which there is none.",
	"ResponseRequest":        "The response to create, in OpenAI's form.",
	"ResponseText":           "The form of the text of a response.",
	"RevokeRequest":          "The token to revoke (RFC 7009).",
	"Session":                "A session, from a sign-in to its end.",
	"StreamOptions":          "Options of a stream.",
	"StreamTicket":           "A permission to open a stream without an access token.",
	"Timings":                "The durations of the stages of a job.",
	"TokenCount":             "A number of model tokens.",
	"TokenList":              "The tokens of a text.",
	"TokenLogprob":           "A token with its log probability.",
	"TokenLogprobs":          "The log probabilities at the position of a generated token.",
	"TokenRequest":           "A user name and a password, or a refresh token (RFC 6749).",
	"TokenizeRequest":        "The text to tokenize.",
	"Tokens":                 "The tokens of a session (RFC 6749).",
	"TopLogProb":             "A token with its log probability, in OpenAI's form.",
	"UpdateWebhookRequest":   "What to change of a webhook.",
	"Usage":                  "Numbers of model tokens.",
	"UsageBudget":            "The token budget of today (UTC): yours, or that of an API key.",
	"UsageDay":               "The tokens of a day (UTC).",
	"UsageReport":            "Your tokens, by day, and your budget.",
	"UsageSum":               "Numbers of jobs and tokens.",
	"Watermark":              "The mark of a text.",
	"Webhook":                "A webhook, without its secret.",
}

// eachObject calls f with every object of a value.
func eachObject(value any, f func(object)) {
	switch value := value.(type) {
	case object:
		f(value)
		for _, v := range value {
			eachObject(v, f)
		}
	case []any:
		for _, v := range value {
			eachObject(v, f)
		}
	}
}

// properties returns the members of a schema of an object.
func properties(schema object) map[string]object {
	members := map[string]object{}
	all, _ := schema["properties"].(object)
	for name, property := range all {
		members[name] = property.(object)
	}
	return members
}

// reachable returns the names of the schemas that request bodies use.
func reachable(doc, schemas object) map[string]bool {
	found := map[string]bool{}
	var visit func(any)
	visit = func(value any) {
		eachObject(value, func(o object) {
			ref, _ := o["$ref"].(string)
			if name, ok := strings.CutPrefix(ref, schemasPath); ok && !found[name] {
				found[name] = true
				visit(schemas[name])
			}
		})
	}
	for _, item := range doc["paths"].(object) {
		for _, op := range item.(object) {
			visit(op.(object)["requestBody"])
		}
	}
	return found
}

// describeDefault moves the default of a member to its description. A member with a default
// is optional. Generators such as openapi-typescript make it mandatory.
func describeDefault(property object) {
	if value, ok := property["default"]; ok {
		delete(property, "default")
		text, _ := json.Marshal(value) // it has been read from JSON
		doc, _ := property["description"].(string)
		property["description"] = strings.TrimSpace(doc + " Default: " + string(text) + ".")
	}
}

// neverNull removes null from the types of an array in an answer. Huma describes
// every slice of Go as nullable, but the service sends [] or omits the member.
func neverNull(property object) {
	if types, ok := property["type"].([]any); ok && slices.Contains(types, any("array")) {
		property["type"] = "array"
	}
}

// eventsByType makes EventBody one of a schema for each type of event. A schema has the
// members of its fact. Required are the members that neither their value nor an erasure omits.
func eventsByType(schemas object) error {
	all := schemas["EventBody"].(object)
	members := all["properties"].(object)
	types := members["type"].(object)["enum"].([]any)
	var variants []any
	mapping := object{}
	for i, fact := range jobFacts {
		if i >= len(types) || types[i] != fact.Type() {
			return fmt.Errorf("describe events: EventBody has the types %v, %s is next", types, fact.Type())
		}
		own := object{"version": members["version"], "at": members["at"], "type": object{
			"type": "string", "enum": []any{fact.Type()}, "description": members["type"].(object)["description"],
		}}
		required := []any{"version", "type", "at"}
		secret := events.Event{Fact: fact}.Secret()
		for _, field := range reflect.VisibleFields(reflect.TypeOf(fact)) {
			name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			if members[name] == nil {
				return fmt.Errorf("describe events: EventBody lacks %s of %s", name, fact.Type())
			}
			own[name] = members[name]
			if !strings.HasPrefix(options, "omit") && !slices.Contains(secret, name) {
				required = append(required, name)
			}
		}
		name := eventName(fact.Type())
		schemas[name] = object{
			"type": "object", "description": "An event " + fact.Type() + ".", "additionalProperties": false, "properties": own, "required": required,
		}
		variants = append(variants, object{"$ref": schemasPath + name})
		mapping[fact.Type()] = schemasPath + name
	}
	if len(types) != len(jobFacts) {
		return fmt.Errorf("describe events: EventBody has the types %v, and facts only %d of them", types, len(jobFacts))
	}
	schemas["EventBody"] = object{
		"description": "An event of a job. Its type decides which members it has. The events of an erased job lack prompt, stop, params, request, tokens, text and logprobs, and its job.accepted lacks api_key.",
		"oneOf":       variants, "discriminator": object{"propertyName": "type", "mapping": mapping},
	}
	return nil
}

// eventName returns the name of the schema of a type of events: JobAcceptedEvent for
// job.accepted.
func eventName(kind string) string {
	var b strings.Builder
	for word := range strings.FieldsFuncSeq(kind, func(r rune) bool { return r == '.' || r == '_' }) {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String() + "Event"
}

// older turns a description in OpenAPI 3.1 into one in 3.0.3 that says the same.
func older(doc object) {
	doc["openapi"] = "3.0.3"
	license := doc["info"].(object)["license"].(object) // its name is its identifier
	delete(license, "identifier")
	license["url"] = "https://www.apache.org/licenses/LICENSE-2.0"
	eachObject(doc, func(o object) {
		if types, ok := o["type"].([]any); ok {
			o["nullable"] = slices.Contains(types, any("null"))
			o["type"] = slices.DeleteFunc(types, func(t any) bool { return t == "null" })[0]
			if values, ok := o["enum"].([]any); ok && o["nullable"] == true && !slices.Contains(values, nil) {
				o["enum"] = append(values, nil)
			}
		}
		for exclusive, bound := range map[string]string{"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"} {
			if value, ok := o[exclusive].(float64); ok {
				o[bound], o[exclusive] = value, true
			}
		}
		if o["format"] == "binary" {
			delete(o, "contentMediaType")
		}
		if o["contentEncoding"] == "base64" {
			delete(o, "contentEncoding")
			o["format"] = "byte"
		}
		if ref, ok := o["$ref"]; ok && len(o) > 1 {
			delete(o, "$ref")
			o["allOf"] = []any{object{"$ref": ref}} // 3.0 ignores what is beside a reference
		}
		if examples, ok := o["examples"].([]any); ok && len(examples) > 0 {
			o["example"] = examples[0]
			delete(o, "examples")
		}
	})
}

// published are the forms of the description, as files.
type published struct {
	json, yaml, olderJSON, olderYAML []byte
}

func (s *server) publish() (p published, err error) {
	doc, err := s.document()
	if err != nil {
		return p, err
	}
	if p.json, p.yaml, err = files(doc); err != nil {
		return p, err
	}
	older(doc)
	p.olderJSON, p.olderYAML, err = files(doc)
	return p, err
}

// files returns a description as JSON and as YAML, with members in alphabetical order.
func files(doc object) (asJSON, asYAML []byte, err error) {
	if asJSON, err = json.Marshal(doc); err != nil {
		return nil, nil, err
	}
	var b bytes.Buffer
	err = yaml.Convert(&b, bytes.NewReader(asJSON))
	return asJSON, b.Bytes(), err
}

// descriptions serves the published description.
func (s *server) descriptions(mux *routes) {
	all := sync.OnceValues(s.publish) // at the first request, when all operations are registered
	for path, form := range map[string]func(published) (media string, file []byte){
		"/openapi.json":     func(p published) (string, []byte) { return "application/openapi+json", p.json },
		"/openapi.yaml":     func(p published) (string, []byte) { return "application/openapi+yaml", p.yaml },
		"/openapi-3.0.json": func(p published) (string, []byte) { return "application/openapi+json", p.olderJSON },
		"/openapi-3.0.yaml": func(p published) (string, []byte) { return "application/openapi+yaml", p.olderYAML },
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			p, err := all()
			if err != nil {
				s.answer(w, r, s.problemOf(r.Context(), err))
				return
			}
			media, file := form(p)
			w.Header().Set("Content-Type", media)
			_, _ = w.Write(file) // an error means that the client has disconnected
		})
	}
}
