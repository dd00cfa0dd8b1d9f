package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path"
	"strings"
	"time"
	"unicode"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"colophon/api/openai"
	"colophon/events"
	"colophon/internal/auth"
)

const (
	filesPath     = "/v1/files"
	multipartType = "multipart/form-data"
	jsonlType     = "application/jsonl"

	// maxUpload is the largest body of an upload in bytes: a file and the rest of the form.
	maxUpload = openai.MaxFileBytes + 64<<10

	// uploadTime is the time for a client to send a file.
	uploadTime = 2 * time.Minute

	maxFilename = 255 // characters
)

// uploadInput gives an operation the request itself, whose body it reads in parts. A form that
// Huma reads would be on the disk in the clear.
type uploadInput struct {
	request *http.Request
	writer  http.ResponseWriter
}

// Resolve is called by Huma.
func (in *uploadInput) Resolve(ctx huma.Context) []error {
	in.request, in.writer = humago.Unwrap(ctx)
	return nil
}

// FilePath is the path of a file. It is exported because Huma reads only exported types inside
// others.
type FilePath struct {
	ID string `path:"id" pattern:"^file-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" patternDescription:"file- and a UUID" maxLength:"41" example:"file-01920000-0000-7000-8000-000000000001" doc:"The file's id."`
}

type listFilesInput struct {
	Purpose string `query:"purpose" enum:"batch,batch_output" doc:"Only files with this purpose."`
	Limit   int    `query:"limit" minimum:"1" maximum:"100" default:"100" doc:"The largest number of files."`
	Order   string `query:"order" enum:"asc,desc" default:"desc" doc:"The order by time of creation."`
	After   string `query:"after" pattern:"^file-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" patternDescription:"file- and a UUID" maxLength:"41" doc:"Begin after the file with this id."`
}

type (
	fileOutput        struct{ Body openai.File }
	fileListOutput    struct{ Body openai.FileList }
	fileDeletedOutput struct{ Body openai.FileDeleted }
)

func (s *server) inputFiles() {
	register(s, huma.Operation{
		OperationID: "upload-file", Method: http.MethodPost, Path: filesPath, Tags: []string{"openai"},
		DefaultStatus: http.StatusOK,
		Summary:       "Upload the input of batches, as OpenAI's API does",
		Description: "The file is in JSONL: one request a line, with the members custom_id, method (POST), url (the endpoint of the batch) and body. It has at most 16 MiB and 50000 lines, and a line has at most 1 MiB. " +
			"The contents are stored encrypted until the file is deleted. An upload takes two minutes at most, and counts as an open stream of the account. An account has at most 20 uploaded files, beyond which the answer is 409 too_many_files. " +
			"The lines are checked when a batch begins.",
		Security: keyed(auth.ScopeGenerate),
		Metadata: withMetadata(waits(nil), streamedName, true),
		Errors:   []int{http.StatusBadRequest, http.StatusRequestTimeout, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType},
	}, s.uploadFile)
	// Huma would read a body that it knows of when it registers the operation.
	s.api.OpenAPI().Paths[filesPath].Post.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{multipartType: {Schema: &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"purpose", "file"},
		Properties: map[string]*huma.Schema{
			"purpose": {Type: huma.TypeString, Enum: []any{"batch"}, Description: "What the file is for."},
			"file":    {Type: huma.TypeString, Format: "binary", Description: "The file."},
		},
	}}}}
	register(s, huma.Operation{
		OperationID: "list-files", Method: http.MethodGet, Path: filesPath, Tags: []string{"openai"},
		Summary:  "List your files, as OpenAI's API does",
		Security: keyed(auth.ScopeRead),
	}, s.listFiles)
	register(s, huma.Operation{
		OperationID: "get-file", Method: http.MethodGet, Path: filesPath + "/{id}", Tags: []string{"openai"},
		Summary:  "Get what is known of a file, as OpenAI's API does",
		Security: keyed(auth.ScopeRead),
		Errors:   []int{http.StatusNotFound},
	}, func(ctx context.Context, in *FilePath) (*fileOutput, error) {
		file, err := s.ownFile(ctx, in.ID)
		return &fileOutput{openai.NewFile(file)}, err
	})
	register(s, huma.Operation{
		OperationID: "get-file-content", Method: http.MethodGet, Path: filesPath + "/{id}/content", Tags: []string{"openai"},
		Summary: "Read a file, as OpenAI's API does",
		Description: "An output of a batch has a line for each line of the input, in the order of the custom ids: {id, custom_id, response {status_code, request_id, body}, error}. It is made from the records of the jobs when it is read. " +
			"A line whose job was erased has a response with the status 410 job_erased. The connection breaks if the file cannot be read to its end. A transfer counts as an open stream of the account.",
		Security: keyed(auth.ScopeRead),
		Metadata: waits(nil),
		Errors:   []int{http.StatusNotFound},
		Responses: map[string]*huma.Response{"200": {
			Description: "The contents.",
			Content:     map[string]*huma.MediaType{jsonlType: {Schema: &huma.Schema{Type: huma.TypeString, Description: "One JSON object a line."}}},
		}},
	}, s.readFile)
	register(s, huma.Operation{
		OperationID: "delete-file", Method: http.MethodDelete, Path: filesPath + "/{id}", Tags: []string{"openai"},
		DefaultStatus: http.StatusOK,
		Summary:       "Delete a file, as OpenAI's API does",
		Description: "While a batch that has not ended reads the file, the answer is 409 file_in_use. The lines of an ended batch are removed with the last of its files, which makes room for others. " +
			"The jobs of a batch outlive its files: DELETE /jobs/{id} erases their texts.",
		Security: keyed(auth.ScopeGenerate),
		Errors:   []int{http.StatusNotFound, http.StatusConflict},
	}, s.deleteFile)
}

// ownFile returns a file of the caller, or events.ErrNotFound.
func (s *server) ownFile(ctx context.Context, id string) (events.File, error) {
	file, ok := openai.ParseID(openai.FilePrefix, id)
	if !ok {
		return events.File{}, events.ErrNotFound
	}
	return s.Store.File(ctx, caller(ctx).Account, file)
}

func (s *server) uploadFile(ctx context.Context, in *uploadInput) (*fileOutput, error) {
	account := caller(ctx).Account
	if refused := s.streams.enter(account, s.MaxStreams, s.MaxAllStreams); refused != nil {
		return nil, refused
	}
	defer s.streams.leave(account)
	// The comment in deadlines says why the error is ignored.
	_ = http.NewResponseController(in.writer).SetReadDeadline(time.Now().Add(uploadTime))
	in.request.Body = http.MaxBytesReader(in.writer, in.request.Body, maxUpload)
	id, err := s.Store.BeginFile(ctx, account)
	if err != nil {
		return nil, err
	}
	name, size, err := s.receive(ctx, in.request, account, id)
	var file events.File
	if err == nil {
		file, err = s.Store.StoreFile(ctx, account, id, name, size)
	}
	if err != nil {
		undisturbed, cancel := context.WithTimeout(context.WithoutCancel(ctx), acceptTimeout)
		defer cancel()
		if err := s.Store.DropFile(undisturbed, id); err != nil {
			s.Log.WarnContext(ctx, "file that was not uploaded completely not removed at once", "request", requestID(ctx), "err", err)
		}
		return nil, err
	}
	return &fileOutput{openai.NewFile(file)}, nil
}

// receive reads the form of an upload and stores the contents of the file in chunks.
func (s *server) receive(ctx context.Context, r *http.Request, account, id uuid.UUID) (name string, size int64, err error) {
	form, err := r.MultipartReader()
	if err != nil {
		return "", 0, newProblem(http.StatusBadRequest, "invalid_request", "the form is malformed").at("body")
	}
	purpose, received := "", false
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", 0, bodyProblem(err, maxUpload)
		}
		switch {
		case part.FormName() == "purpose" && purpose == "":
			value, err := io.ReadAll(io.LimitReader(part, int64(len("batch")+1))) // enough to tell it from others
			if err != nil {
				return "", 0, bodyProblem(err, maxUpload)
			}
			if purpose = string(value); purpose != "batch" {
				return "", 0, newProblem(http.StatusUnprocessableEntity, "invalid_request", "the purpose of a file must be batch").at("body.purpose")
			}
		case part.FormName() == "file" && !received:
			received, name = true, cleanName(part.FileName())
			if size, err = s.receiveFile(ctx, part, account, id); err != nil {
				return "", 0, err
			}
		default:
			return "", 0, newProblem(http.StatusBadRequest, "unsupported_parameter", "the form has another part than one purpose and one file").at("body")
		}
	}
	switch {
	case purpose == "":
		return "", 0, newProblem(http.StatusUnprocessableEntity, "invalid_request", "the form lacks the purpose").at("body.purpose")
	case !received:
		return "", 0, newProblem(http.StatusUnprocessableEntity, "invalid_request", "the form lacks the file").at("body.file")
	}
	return name, size, nil
}

// received marks the errors of reading from a client as receiveError.
type received struct{ io.Reader }

type receiveError struct{ error }

func (r received) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = receiveError{err}
	}
	return n, err
}

// receiveFile stores the contents of a file in chunks and returns its size. Errors of the client
// and of the database need different answers, so received marks the former.
func (s *server) receiveFile(ctx context.Context, part io.Reader, account, id uuid.UUID) (int64, error) {
	number := 0
	size, err := openai.Chunks(received{part}, func(firstLine int, lines []byte) error {
		number++
		return s.Store.AddChunk(ctx, account, id, number, firstLine, lines)
	})
	if broken, ok := errors.AsType[receiveError](err); ok {
		return 0, bodyProblem(broken.error, maxUpload)
	}
	return size, err
}

// cleanName returns the name of a file without its directory and without characters that are
// not printable.
func cleanName(name string) string {
	name = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(path.Base(name), ""))
	if name == "." || name == "/" || name == "" {
		name = "file.jsonl" // the client has sent none
	}
	runes := []rune(name)
	return string(runes[:min(maxFilename, len(runes))])
}

func (s *server) listFiles(ctx context.Context, in *listFilesInput) (*fileListOutput, error) {
	after, _ := openai.ParseID(openai.FilePrefix, in.After)
	if in.After == "" && in.Order == "desc" {
		after = uuid.Max
	}
	found, err := s.Store.Files(ctx, caller(ctx).Account, after, in.Purpose != "batch_output", in.Purpose != "batch", in.Order == "desc", in.Limit+1)
	if err != nil {
		return nil, err
	}
	page := openai.FileList{Object: "list", Data: []openai.File{}, HasMore: len(found) > in.Limit}
	for _, f := range found[:min(in.Limit, len(found))] {
		page.Data = append(page.Data, openai.NewFile(f))
	}
	if n := len(page.Data); n > 0 {
		page.FirstID, page.LastID = &page.Data[0].ID, &page.Data[n-1].ID
	}
	return &fileListOutput{page}, nil
}

func (s *server) deleteFile(ctx context.Context, in *FilePath) (*fileDeletedOutput, error) {
	id, ok := openai.ParseID(openai.FilePrefix, in.ID)
	if !ok {
		return nil, events.ErrNotFound
	}
	if err := s.Store.DeleteFile(ctx, caller(ctx).Account, id); err != nil {
		return nil, err
	}
	return &fileDeletedOutput{openai.FileDeleted{ID: in.ID, Object: "file", Deleted: true}}, nil
}

func (s *server) readFile(ctx context.Context, in *FilePath) (*openAIOutput, error) {
	file, err := s.ownFile(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	var batch events.Batch
	if file.Batch != (uuid.UUID{}) {
		if batch, err = s.Store.Batch(ctx, file.Owner, file.Batch); err != nil {
			return nil, err
		}
	}
	return &openAIOutput{ContentType: jsonlType, Body: s.transfer(ctx, func(w timedWriter) error {
		ctx, cancel := s.waiting(ctx)
		defer cancel()
		if file.Batch != (uuid.UUID{}) {
			return s.writeOutput(ctx, w, batch, file.Failed)
		}
		for number := 0; ; {
			chunk, err := s.Store.NextChunk(ctx, file.Owner, file.ID, number)
			if errors.Is(err, events.ErrNotFound) {
				_, err = s.Store.File(ctx, file.Owner, file.ID) // a file that was deleted meanwhile is not complete
				return err
			}
			if err == nil {
				_, err = w.Write(chunk.Lines)
			}
			if err != nil {
				return err
			}
			number = chunk.Number
		}
	})}, nil
}
