package openai

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"colophon/events"
	"colophon/internal/errcode"
	"colophon/internal/strictjson"
)

// The limits of the input of a batch. A line is as long as a request of its own may be.
const (
	MaxFileBytes = 16 << 20
	MaxFileLines = 50_000
	MaxLineBytes = 1 << 20
	maxCustomID  = 256 // characters

	chunkBytes = 256 << 10 // a chunk has more only if its last line is long
)

// The refusals of an input that is too large.
var (
	ErrFileTooLarge = errcode.New("file_too_large", "the file has more than 16777216 bytes")
	ErrTooManyLines = errcode.New("too_many_lines", "the file has more than 50000 lines")
	ErrLineTooLong  = errcode.New("line_too_long", "a line of the file has more than 1048576 bytes")
)

// Chunks reads a file in JSONL and passes it on in chunks of whole lines. firstLine is the number
// of the first line of a chunk, from 1. The chunks together are the bytes of the file; only the
// last line may lack its line feed. A chunk is valid until the function store returns. Chunks
// returns the size of the file. It returns ErrFileTooLarge, ErrTooManyLines or ErrLineTooLong,
// and errors of r and of store as they are. It holds no more than a chunk and a line in memory.
func Chunks(r io.Reader, store func(firstLine int, lines []byte) error) (size int64, err error) {
	lines := bufio.NewReaderSize(r, 64<<10)
	var chunk []byte
	first, number, begin := 1, 1, 0 // number and begin are those of the line that is read
	flush := func() error {
		if len(chunk) == 0 {
			return nil
		}
		err := store(first, chunk)
		chunk, first, begin = chunk[:0], number, 0
		return err
	}
	for {
		part, err := lines.ReadSlice('\n')
		chunk = append(chunk, part...)
		size += int64(len(part))
		switch {
		case size > MaxFileBytes:
			return size, ErrFileTooLarge
		case len(chunk)-begin > MaxLineBytes:
			return size, ErrLineTooLong
		case number > MaxFileLines && len(chunk) > begin:
			return size, ErrTooManyLines
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return size, flush()
		case err != nil:
			return size, err
		}
		number++
		begin = len(chunk)
		if len(chunk) >= chunkBytes {
			if err := flush(); err != nil {
				return size, err
			}
		}
	}
}

// BatchRequest is a line of the input of a batch.
type BatchRequest struct {
	CustomID string          `json:"custom_id"`
	Method   string          `json:"method"`
	URL      string          `json:"url"`
	Body     json.RawMessage `json:"body"`
}

// ReadBatchRequest reads a line of the input of a batch for an endpoint. The fault is nil for a
// valid line. It repeats nothing of the line. The body is a JSON object that is not read further.
func ReadBatchRequest(line []byte, endpoint string) (BatchRequest, *events.BatchFault) {
	fault := func(code, param, message string) (BatchRequest, *events.BatchFault) {
		return BatchRequest{}, &events.BatchFault{Code: code, Param: param, Message: message}
	}
	if err := strictjson.Check(line, strictjson.MaxDepth+1); err != nil {
		return fault("invalid_json_line", "", "the line is not a JSON object: "+err.Error())
	}
	var r struct { // a missing member is nil
		CustomID, Method, URL *string
		Body                  *json.RawMessage
	}
	members := map[string]any{"custom_id": &r.CustomID, "method": &r.Method, "url": &r.URL, "body": &r.Body}
	// Package encoding/json would also take names in another case, and so the last of two ids.
	err := strictjson.Object(bytes.NewReader(line), func(name string, value []byte) error {
		if members[name] == nil {
			return errForm
		}
		return json.Unmarshal(value, members[name])
	})
	if err != nil {
		return fault("invalid_json_line", "", "the line is not an object with the members custom_id, method, url and body alone")
	}
	missing := ""
	switch {
	case r.CustomID == nil:
		missing = "custom_id"
	case r.Method == nil:
		missing = "method"
	case r.URL == nil:
		missing = "url"
	case r.Body == nil:
		missing = "body"
	}
	if missing != "" {
		return fault("missing_required_parameter", missing, "the line lacks the member "+missing)
	}
	if n := utf8.RuneCountInString(*r.CustomID); n == 0 || n > maxCustomID {
		return fault("invalid_custom_id", "custom_id", "a custom_id has 1 to 256 characters")
	}
	if *r.Method != "POST" {
		return fault("invalid_method", "method", "the method of a line is POST")
	}
	if *r.URL != endpoint {
		return fault("invalid_url", "url", "the url of a line is the endpoint of its batch")
	}
	if !strings.HasPrefix(string(bytes.TrimLeft(*r.Body, " \t\r\n")), "{") {
		return fault("invalid_body", "body", "the body of a line is an object")
	}
	return BatchRequest{*r.CustomID, *r.Method, *r.URL, *r.Body}, nil
}
