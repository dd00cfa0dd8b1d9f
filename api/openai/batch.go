package openai

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

// These operations make texts. One of them is the endpoint of a batch.
const (
	EndpointCompletions = "/v1/completions"
	EndpointChat        = "/v1/chat/completions"
	EndpointResponses   = "/v1/responses"
)

// The prefixes of ids.
const (
	FilePrefix  = "file-"
	BatchPrefix = "batch_"
)

// ParseID returns the UUID in an id with a prefix. It reports false for a text that is no such id.
func ParseID(prefix, id string) (uuid.UUID, bool) {
	name, ok := strings.CutPrefix(id, prefix)
	parsed, err := uuid.Parse(name)
	return parsed, ok && err == nil && prefix+parsed.String() == id
}

// File is a file as clients see it.
type File struct {
	ID        string `json:"id" doc:"The id of the file."`
	Object    string `json:"object" enum:"file" doc:"The kind of object."`
	Bytes     int64  `json:"bytes" doc:"The size in bytes. For a file that a batch has made, that at the end of the batch."`
	CreatedAt int64  `json:"created_at" doc:"When the file was created, in Unix seconds."`
	Filename  string `json:"filename" doc:"The name that the client gave the file, or one with the id of the batch."`
	Purpose   string `json:"purpose" enum:"batch,batch_output" doc:"The input of batches (batch), or what a batch has made (batch_output)."`
	Status    string `json:"status" enum:"processed" doc:"A file is complete as soon as it exists."`
}

// NewFile returns a file as clients see it.
func NewFile(f events.File) File {
	file := File{ID: FilePrefix + f.ID.String(), Object: "file", Bytes: f.Bytes, CreatedAt: f.CreatedAt.Unix(), Filename: f.Name, Purpose: "batch", Status: "processed"}
	if f.Batch != (uuid.UUID{}) {
		ending := "_output.jsonl"
		if f.Failed {
			ending = "_error.jsonl"
		}
		file.Purpose, file.Filename = "batch_output", BatchPrefix+f.Batch.String()+ending
	}
	return file
}

// FileDeleted is the answer to the deletion of a file.
type FileDeleted struct {
	ID      string `json:"id" doc:"The id of the file."`
	Object  string `json:"object" enum:"file" doc:"The kind of object."`
	Deleted bool   `json:"deleted" enum:"true" doc:"The file is gone."`
}

// FileList is a page of files.
type FileList struct {
	Object  string  `json:"object" enum:"list" doc:"The kind of object."`
	Data    []File  `json:"data" nullable:"false" doc:"The files."`
	FirstID *string `json:"first_id" nullable:"true" doc:"The id of the first file."`
	LastID  *string `json:"last_id" nullable:"true" doc:"The id of the last file, after which the next page begins."`
	HasMore bool    `json:"has_more" doc:"Whether more files follow."`
}

// BatchBody is the request body of /v1/batches.
type BatchBody struct {
	InputFileID      string   `json:"input_file_id" pattern:"^file-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" patternDescription:"file- and a UUID" maxLength:"41" example:"file-01920000-0000-7000-8000-000000000001" doc:"The id of an uploaded file with the requests."`
	Endpoint         string   `json:"endpoint" enum:"/v1/completions,/v1/chat/completions,/v1/responses" doc:"The operation that each line asks for."`
	CompletionWindow string   `json:"completion_window" enum:"24h" doc:"The time until the deadline."`
	Metadata         Metadata `json:"metadata,omitempty" doc:"Up to 16 texts of the client, each with a name of up to 64 characters. They are in each answer about the batch."`
}

// Batches is the table of the fields of /v1/batches.
var Batches = Operation{
	Honoured: reflect.TypeFor[BatchBody](),
	Refused:  []Refused{{"output_expires_after", nil, "files stay until they are deleted, or for as long as the service keeps texts"}},
	Inner:    map[string]func(json.RawMessage, string) (json.RawMessage, error){"metadata": readMetadata},
}.unique()

// Batch is a batch as clients see it.
type Batch struct {
	ID               string       `json:"id" doc:"The id of the batch."`
	Object           string       `json:"object" enum:"batch" doc:"The kind of object."`
	Endpoint         string       `json:"endpoint" doc:"The operation that each line asks for."`
	Errors           *BatchErrors `json:"errors,omitempty" doc:"Why the input cannot be processed, if the status is failed."`
	InputFileID      string       `json:"input_file_id" doc:"The id of the file with the requests."`
	CompletionWindow string       `json:"completion_window" enum:"24h" doc:"The time until the deadline."`
	Status           string       `json:"status" enum:"validating,failed,in_progress,finalizing,completed,expired,cancelling,cancelled" doc:"The state. failed: the input cannot be processed. finalizing and cancelling: no more lines begin, and those under way end. expired: the deadline came before the end of all lines."`
	OutputFileID     string       `json:"output_file_id,omitempty" doc:"The id of the file with the answers. Missing before the end of the batch, and if there are none."`
	ErrorFileID      string       `json:"error_file_id,omitempty" doc:"The id of the file with the lines that have no answer. Missing before the end of the batch, and if there are none."`
	CreatedAt        int64        `json:"created_at" doc:"When the batch was created, in Unix seconds."`
	InProgressAt     int64        `json:"in_progress_at,omitempty" doc:"When the input was found valid, in Unix seconds."`
	ExpiresAt        int64        `json:"expires_at" doc:"The deadline, in Unix seconds. Lines that have not ended are then cancelled."`
	FinalizingAt     int64        `json:"finalizing_at,omitempty" doc:"When the deadline passed or all lines had ended, in Unix seconds."`
	CompletedAt      int64        `json:"completed_at,omitempty" doc:"When the batch was completed, in Unix seconds."`
	FailedAt         int64        `json:"failed_at,omitempty" doc:"When the input was refused, in Unix seconds."`
	ExpiredAt        int64        `json:"expired_at,omitempty" doc:"When the batch had expired, in Unix seconds."`
	CancellingAt     int64        `json:"cancelling_at,omitempty" doc:"When the batch was to be cancelled, in Unix seconds."`
	CancelledAt      int64        `json:"cancelled_at,omitempty" doc:"When the batch was cancelled, in Unix seconds."`
	RequestCounts    BatchCounts  `json:"request_counts" doc:"The numbers of lines."`
	Metadata         Metadata     `json:"metadata" nullable:"false" doc:"The texts of the client."`
}

// BatchCounts are numbers of lines.
type BatchCounts struct {
	Total     int `json:"total" doc:"All lines; 0 before the input was found valid."`
	Completed int `json:"completed" doc:"The lines with an answer."`
	Failed    int `json:"failed" doc:"The lines that have ended without an answer."`
}

// BatchErrors say why an input cannot be processed.
type BatchErrors struct {
	Object string       `json:"object" enum:"list" doc:"The kind of object."`
	Data   []BatchError `json:"data" nullable:"false" doc:"The first faults of the input."`
}

// BatchError is a fault of an input.
type BatchError struct {
	Code    string  `json:"code" doc:"The kind of fault, for programs."`
	Line    *int    `json:"line" nullable:"true" doc:"The number of the line, from 1."`
	Message string  `json:"message" doc:"What is wrong."`
	Param   *string `json:"param" nullable:"true" doc:"The member of the line that is wrong."`
}

// BatchList is a page of batches.
type BatchList struct {
	Object  string  `json:"object" enum:"list" doc:"The kind of object."`
	Data    []Batch `json:"data" nullable:"false" doc:"The batches, the newest first."`
	FirstID *string `json:"first_id" nullable:"true" doc:"The id of the first batch."`
	LastID  *string `json:"last_id" nullable:"true" doc:"The id of the last batch, after which the next page begins."`
	HasMore bool    `json:"has_more" doc:"Whether more batches follow."`
}

// NewBatch returns a batch as clients see it.
func NewBatch(b events.Batch) Batch {
	batch := Batch{
		ID: BatchPrefix + b.ID.String(), Object: "batch", Endpoint: b.Endpoint, InputFileID: FilePrefix + b.Input.String(), CompletionWindow: "24h", Status: string(b.State),
		OutputFileID: fileID(b.Output), ErrorFileID: fileID(b.Errors), CreatedAt: b.CreatedAt.Unix(), InProgressAt: unix(b.InProgressAt), ExpiresAt: b.ExpiresAt.Unix(),
		FinalizingAt: unix(b.FinalizingAt), CancellingAt: unix(b.CancellingAt), RequestCounts: BatchCounts{b.Total, b.Completed, b.Failed}, Metadata: Metadata(b.Metadata),
	}
	if batch.Metadata == nil {
		batch.Metadata = Metadata{}
	}
	switch ended := unix(b.EndedAt); b.State {
	case events.BatchCompleted:
		batch.CompletedAt = ended
	case events.BatchFailed:
		batch.FailedAt = ended
	case events.BatchExpired:
		batch.ExpiredAt = ended
	case events.BatchCancelled:
		batch.CancelledAt = ended
	}
	if b.Faults != nil {
		batch.Errors = &BatchErrors{Object: "list", Data: []BatchError{}}
		for _, f := range b.Faults {
			e := BatchError{Code: f.Code, Message: f.Message, Param: optional(f.Param)}
			if f.Line > 0 {
				e.Line = &f.Line
			}
			batch.Errors.Data = append(batch.Errors.Data, e)
		}
	}
	return batch
}

func fileID(id uuid.UUID) string {
	if id == (uuid.UUID{}) {
		return ""
	}
	return FilePrefix + id.String()
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// LineRecord is what a line of a batch remembers of its request, beside the jobs. It is stored
// sealed.
type LineRecord struct {
	CustomID string       `json:"custom_id"`
	N        int          `json:"n,omitempty"`
	Echo     bool         `json:"echo,omitempty"`
	Failure  *LineFailure `json:"failure,omitempty"` // nil if the line has jobs
}

// LineFailure says why a line has no jobs: the answer that the operation gave, or the error of
// the batch.
type LineFailure struct {
	RequestID string          `json:"request_id,omitempty"`
	Status    int             `json:"status,omitempty"`
	Body      json.RawMessage `json:"body,omitempty"`
	Error     *LineError      `json:"error,omitempty"`
}

// LineOutput is a line of a file that a batch has made.
type LineOutput struct {
	ID       string        `json:"id"`
	CustomID string        `json:"custom_id"`
	Response *LineResponse `json:"response"`
	Error    *LineError    `json:"error"`
}

// LineResponse is what the operation has answered to a line.
type LineResponse struct {
	StatusCode int    `json:"status_code"`
	RequestID  string `json:"request_id"`
	Body       any    `json:"body"`
}

// LineError says why a line has no response.
type LineError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// inBatch is why lines of batches refuse a field.
const inBatch = "the answer to a line of a batch is read from the output of the batch"

// Line returns the record of a line with this body. It returns a *Refusal for a stream.
func (b *CompletionBody) Line() (LineRecord, error) {
	r, err := b.line()
	r.Echo = b.Echo
	return r, err
}

// Line is like that of CompletionBody.
func (b *ChatBody) Line() (LineRecord, error) { return b.line() }

func (s *Sampling) line() (LineRecord, error) {
	if s.Stream {
		return LineRecord{}, unsupported("stream", inBatch)
	}
	return LineRecord{N: s.N}, nil
}

// Line is like that of CompletionBody. Responses of batches are stored, and begin a conversation.
func (b *ResponseBody) Line() (LineRecord, error) {
	switch {
	case b.Stream:
		return LineRecord{}, unsupported("stream", inBatch)
	case b.Background:
		return LineRecord{}, unsupported("background", inBatch)
	case !*b.Store:
		return LineRecord{}, unsupported("store", inBatch)
	case b.PreviousResponseID != "":
		return LineRecord{}, unsupported("previous_response_id", "a line of a batch sends its whole conversation as input")
	}
	return LineRecord{}, nil
}

// Answer returns what the operation at an endpoint answers about the ended jobs of a line. The
// jobs know whether their request asked for log probabilities.
func (r LineRecord) Answer(endpoint string, jobs []events.Job, logprobs Logprobs) any {
	switch endpoint {
	case EndpointChat:
		return (&ChatBody{Sampling: Sampling{N: r.N}}).Answer(jobs, logprobs)
	case EndpointResponses:
		return NewResponse(jobs[0], logprobs)
	}
	return (&CompletionBody{Sampling: Sampling{N: r.N}, Echo: r.Echo}).Answer(jobs, logprobs)
}
