package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"colophon/test/program/programtest"
)

// batchLine returns a line of a batch of completions.
func batchLine(id, members string) string {
	return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/completions","body":{"model":%q,"prompt":%q,"temperature":0,"max_tokens":5%s}}`, id, model, prompt+" "+id, members)
}

// upload uploads the input of a batch.
func (g *goSDK) upload(t *testing.T, lines ...string) *openai.FileObject {
	t.Helper()
	file, err := g.first.Files.New(t.Context(), openai.FileNewParams{
		File: openai.File(strings.NewReader(strings.Join(lines, "\n")), "requests.jsonl", "application/jsonl"), Purpose: openai.FilePurposeBatch,
	})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func batchParams(input string) openai.BatchNewParams {
	return openai.BatchNewParams{InputFileID: input, Endpoint: openai.BatchNewParamsEndpointV1Completions, CompletionWindow: openai.BatchNewParamsCompletionWindow24h}
}

// begin begins a batch.
func (g *goSDK) begin(t *testing.T, input string) *openai.Batch {
	t.Helper()
	batch, err := g.first.Batches.New(t.Context(), batchParams(input))
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

// polled polls a batch at the other process until it has one of some states.
func (g *goSDK) polled(t *testing.T, id string, states ...openai.BatchStatus) (batch *openai.Batch) {
	t.Helper()
	programtest.Eventually(t, fmt.Sprintf("the batch is %v", states), func() bool {
		var err error
		if batch, err = g.other.Batches.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return slices.Contains(states, batch.Status)
	})
	return batch
}

// lineOutput is a line of a file that a batch has made.
type lineOutput struct {
	CustomID string `json:"custom_id"`
	Response *struct {
		StatusCode int `json:"status_code"`
		Body       struct {
			Choices []openai.CompletionChoice
			Usage   openai.CompletionUsage
			Error   struct{ Code, Param string }
		}
	}
	Error *struct{ Code string }
}

// contents returns the contents of a file.
func (g *goSDK) contents(t *testing.T, id string) []byte {
	t.Helper()
	answer, err := g.other.Files.Content(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (g *goSDK) lines(t *testing.T, id string) (all []lineOutput) {
	t.Helper()
	for line := range bytes.Lines(g.contents(t, id)) {
		var one lineOutput
		if err := json.Unmarshal(line, &one); err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

func mustBe(t *testing.T, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// files runs the scenarios of files.
func (g *goSDK) files(t *testing.T) {
	g.scenario(t, "files: a file is uploaded, listed, read and deleted", func(t *testing.T) {
		ctx := t.Context()
		input := batchLine("a", "") + "\n" + batchLine("b", "")
		first, second := g.upload(t, input), g.upload(t, batchLine("c", ""))
		mustBe(t, []any{first.Filename, first.Purpose, first.Bytes}, []any{"requests.jsonl", openai.FileObjectPurposeBatch, int64(len(input))})
		mustBe(t, string(g.contents(t, first.ID)), input)
		var ids []string
		pager := g.other.Files.ListAutoPaging(ctx, openai.FileListParams{Purpose: openai.String("batch"), Limit: openai.Int(1)})
		for pager.Next() {
			ids = append(ids, pager.Current().ID)
		}
		if err := pager.Err(); err != nil {
			t.Error(err)
		}
		mustBe(t, ids, []string{second.ID, first.ID})
		if got, err := g.other.Files.Get(ctx, first.ID); err != nil || got.RawJSON() != first.RawJSON() {
			t.Errorf("%s, %v, want %s", got.RawJSON(), err, first.RawJSON())
		}
		for _, id := range ids {
			if got, err := g.first.Files.Delete(ctx, id); err != nil || !got.Deleted || got.ID != id {
				t.Errorf("%+v, %v", got, err)
			}
		}
		_, err := g.other.Files.Get(ctx, first.ID)
		refused(t, err, 404, "not_found")
	})
}

// batches runs the scenarios of batches that need a worker.
func (g *goSDK) batches(t *testing.T) {
	ctx := t.Context()
	g.scenario(t, "batches: the output has the answers in the order of the custom ids", func(t *testing.T) {
		var lines []string
		for _, id := range []string{"10", "9", "é", "a", "B"} {
			lines = append(lines, batchLine(id, ""))
		}
		batch := g.polled(t, g.begin(t, g.upload(t, lines...).ID).ID, openai.BatchStatusCompleted)
		mustBe(t, []any{batch.RequestCounts.Total, batch.RequestCounts.Completed, batch.ErrorFileID}, []any{int64(5), int64(5), ""})
		var ids []string
		for _, line := range g.lines(t, batch.OutputFileID) {
			ids = append(ids, line.CustomID)
			alone, err := g.first.Completions.New(ctx, completionParams(request{input: prompt + " " + line.CustomID, tokens: 5}), plain...)
			if err != nil {
				t.Fatal(err)
			}
			mustBe(t, []any{line.Response.StatusCode, line.Response.Body.Choices[0].RawJSON(), line.Response.Body.Usage.RawJSON()},
				[]any{200, alone.Choices[0].RawJSON(), alone.Usage.RawJSON()})
		}
		mustBe(t, ids, []string{"10", "9", "B", "a", "é"})
		list, err := g.other.Batches.List(ctx, openai.BatchListParams{Limit: openai.Int(1)})
		if err != nil || len(list.Data) != 1 || list.Data[0].ID != batch.ID {
			t.Errorf("%+v, %v", list, err)
		}
	})
	g.scenario(t, "batches: a line that its operation refuses fails alone", func(t *testing.T) {
		input := g.upload(t, batchLine("bad", `,"top_p":5`), batchLine("good", ""), batchLine("unsupported", `,"best_of":3`))
		batch := g.polled(t, g.begin(t, input.ID).ID, openai.BatchStatusCompleted)
		mustBe(t, []int64{batch.RequestCounts.Total, batch.RequestCounts.Completed, batch.RequestCounts.Failed}, []int64{3, 1, 2})
		mustBe(t, g.lines(t, batch.OutputFileID)[0].CustomID, "good")
		var failed []any
		for _, line := range g.lines(t, batch.ErrorFileID) {
			failed = append(failed, line.CustomID, line.Response.StatusCode, line.Response.Body.Error.Code, line.Response.Body.Error.Param)
		}
		mustBe(t, failed, []any{"bad", 400, "invalid_request", "top_p", "unsupported", 400, "unsupported_parameter", "best_of"})
	})
	g.scenario(t, "batches: a file with malformed lines fails the batch, with their numbers", func(t *testing.T) {
		batch := g.polled(t, g.begin(t, g.upload(t, batchLine("a", ""), "{", strings.Replace(batchLine("b", ""), "POST", "GET", 1)).ID).ID, openai.BatchStatusFailed)
		var faults []any
		for _, f := range batch.Errors.Data {
			faults = append(faults, f.Line, f.Code)
		}
		mustBe(t, faults, []any{int64(2), "invalid_json_line", int64(3), "invalid_method"})
	})
	g.scenario(t, "files and batches: errors 400, 401 and 404 have their codes, and are not retried", func(t *testing.T) {
		calls := 0
		c := sdk(g.apis[0].URL, g.key, counted(&calls))
		const none = "00000000-0000-7000-8000-000000000000"
		_, err := c.Files.New(ctx, openai.FileNewParams{File: strings.NewReader("{}"), Purpose: openai.FilePurposeFineTune})
		refused(t, err, 400, "invalid_request")
		_, err = c.Batches.New(ctx, batchParams("file-"+none), option.WithJSONSet("endpoint", "/v1/embeddings"))
		refused(t, err, 400, "invalid_request")
		wrong := sdk(g.apis[0].URL, "sk-colophon-wrong", counted(&calls))
		_, err = wrong.Files.List(ctx, openai.FileListParams{})
		refused(t, err, 401, "invalid_api_key")
		_, err = c.Batches.New(ctx, batchParams("file-"+none))
		refused(t, err, 404, "not_found")
		_, err = c.Batches.Get(ctx, "batch_"+none)
		refused(t, err, 404, "not_found")
		if calls != 5 {
			t.Errorf("%d calls", calls)
		}
	})
}

// cancelledBatch runs the scenario of a batch that no worker can end before it is cancelled.
func (g *goSDK) cancelledBatch(t *testing.T) {
	g.scenario(t, "batches: a batch is cancelled, and again; its input cannot be deleted before", func(t *testing.T) {
		ctx := t.Context()
		input := g.upload(t, batchLine("a", ""), batchLine("b", ""))
		id := g.begin(t, input.ID).ID
		calls := 0
		counting := sdk(g.apis[0].URL, g.key, counted(&calls))
		_, err := counting.Files.Delete(ctx, input.ID)
		refused(t, err, 409, "file_in_use")
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
		g.polled(t, id, openai.BatchStatusInProgress)
		for _, c := range []openai.Client{g.first, g.other} {
			if got, err := c.Batches.Cancel(ctx, id); err != nil || got.Status != openai.BatchStatusCancelling && got.Status != openai.BatchStatusCancelled {
				t.Errorf("%+v, %v", got, err)
			}
		}
		batch := g.polled(t, id, openai.BatchStatusCancelled)
		mustBe(t, []any{batch.RequestCounts.Completed, batch.RequestCounts.Failed, batch.OutputFileID}, []any{int64(0), int64(2), ""})
		var failed []string
		for _, line := range g.lines(t, batch.ErrorFileID) {
			failed = append(failed, line.CustomID, line.Error.Code)
		}
		mustBe(t, failed, []string{"a", "batch_cancelled", "b", "batch_cancelled"})
		if _, err := g.first.Files.Delete(ctx, input.ID); err != nil {
			t.Error(err)
		}
	})
}
