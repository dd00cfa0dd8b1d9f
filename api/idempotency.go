package api

import (
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"colophon/events"
)

// maxKey is the longest idempotency key, in characters.
const maxKey = 255

// Idempotent is the part of an operation's input that reads the Idempotency-Key header
// (draft-ietf-httpapi-idempotency-key-header).
type Idempotent struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"512" example:"\"8e03978e-40d5-43dd-bc93-6894a57f9324\"" doc:"A name of your choice for this request, such as a UUID: 1 to 255 visible characters in double quotes, or a bare token. A request that is sent again under the same key within a day is carried out once. The answer is that of the first time, with the job or the batch as it is now. The same key with another request is answered with 422 (400 by the operations of OpenAI's API), and with a request that is still being accepted with 409."`

	sent []string // the lines of the header as the client sent them
}

// Resolve keeps the lines of the header. It needs them because an empty key is an error,
// but a missing key is not.
func (i *Idempotent) Resolve(ctx huma.Context) []error {
	ctx.EachHeader(func(name, value string) {
		if strings.EqualFold(name, "Idempotency-Key") {
			i.sent = append(i.sent, value)
		}
	})
	return nil
}

// key returns the request's key with its scope and payload, or nil if the request has
// none.
func (i *Idempotent) key(scope string, payload []byte) (*events.IdempotencyKey, error) {
	if len(i.sent) == 0 {
		return nil, nil
	}
	key, ok := readKey(i.sent)
	if !ok {
		return nil, newProblem(http.StatusBadRequest, "invalid_idempotency_key",
			`send one Idempotency-Key of 1 to 255 visible ASCII characters in double quotes, such as "8e03978e-40d5-43dd-bc93-6894a57f9324"`).
			at("header.Idempotency-Key")
	}
	return &events.IdempotencyKey{Scope: scope, Key: key, Payload: payload}, nil
}

// readKey parses the lines of an Idempotency-Key header. The key is an RFC 8941 string.
// Many clients leave out the quotes, so readKey accepts the key without quotes too.
func readKey(lines []string) (key string, ok bool) {
	if len(lines) != 1 {
		return "", false
	}
	line := strings.Trim(lines[0], " \t")
	if quoted, is := strings.CutPrefix(line, `"`); is {
		key, ok = unquote(quoted)
	} else {
		key, ok = line, !strings.ContainsAny(line, " \t\",;\\")
	}
	for _, c := range []byte(key) {
		ok = ok && ' ' <= c && c <= '~'
	}
	return key, ok && 1 <= len(key) && len(key) <= maxKey
}

// unquote returns the RFC 8941 string in text, which starts right after the opening
// quote. Nothing may follow the closing quote.
func unquote(text string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			return b.String(), i == len(text)-1
		case '\\':
			i++
			if i == len(text) || text[i] != '"' && text[i] != '\\' {
				return "", false
			}
		}
		b.WriteByte(text[i])
	}
	return "", false
}
