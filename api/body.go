package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// maxBody is the largest request body in bytes. A body of this size has room for a prompt
// of 500 four-byte characters, all of them escaped, and for the other members.
const maxBody = 64 << 10

// bodyLimitName names the metadata entry with the largest body of an operation in bytes, if
// it is not maxBody.
const bodyLimitName = "bodyLimit"

// streamedName is the metadata key of operations that read the body by themselves, in parts.
const streamedName = "streamed"

// readBody reads the whole body of a request before Huma does. Huma would answer 500 to a
// body that is malformed or ends early. net/http closes the connection after such a body.
func (s *server) readBody(ctx huma.Context, next func(huma.Context)) {
	if ctx.Operation().RequestBody == nil || ctx.Operation().Metadata[streamedName] != nil {
		next(ctx)
		return
	}
	r, w := humago.Unwrap(ctx)
	// The deadline starts again here, so that the time for authentication does not count.
	// The comment in deadlines says why the error is ignored.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.timeouts.body))
	most, ok := ctx.Operation().Metadata[bodyLimitName].(int64)
	if !ok {
		most = maxBody
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		s.refuse(ctx, bodyProblem(err, most))
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	next(ctx)
}

// bodyProblem returns the answer to a request whose body cannot be read.
func bodyProblem(err error, most int64) *Problem {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return newProblem(http.StatusRequestEntityTooLarge, "invalid_request", fmt.Sprintf("the body is too large: send at most %d bytes", most))
	}
	if slow, ok := errors.AsType[net.Error](err); ok && slow.Timeout() {
		return newProblem(http.StatusRequestTimeout, "invalid_request", "the body took too long: send it at once")
	}
	return newProblem(http.StatusBadRequest, "invalid_request", "the body cannot be read: it is malformed or ends early")
}
