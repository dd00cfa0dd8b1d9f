package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/events/ledger"
	"colophon/events/receipt"
	"colophon/internal/auth"
)

const (
	// receiptWait bounds the wait for a checkpoint that contains the job's events.
	receiptWait = 5 * time.Second

	// receiptPoll is the time between two looks at the latest checkpoint. Nothing announces
	// a checkpoint.
	receiptPoll = 300 * time.Millisecond
)

type receiptInput struct {
	ID       uuid.UUID `path:"id" format:"uuid" doc:"The job's id."`
	Disclose string    `query:"disclose" pattern:"^(none|(text|prompt|params|stop|tokens|logprobs|owner|request)(,(text|prompt|params|stop|tokens|logprobs|owner|request)){0,7})$" maxLength:"70" default:"text,prompt" example:"text,prompt" doc:"The secret members that the receipt shows, separated by commas; none shows none of them. A receipt without the prompt still proves the text."`
	Format   string    `query:"format" enum:"json,tlog-proof" default:"json" doc:"json is the receipt. tlog-proof is only the proof that the log contains the job's last event, in the format of c2sp.org/tlog-proof."`
}

type receiptOutput struct {
	ContentType  string `header:"Content-Type"`
	CacheControl string `header:"Cache-Control"`
	Vary         string `header:"Vary" doc:"The request headers that the answer depends on."`
	Body         []byte
}

func (s *server) receipts() {
	register(s, huma.Operation{
		OperationID: "receipt", Method: http.MethodGet, Path: "/jobs/{id}/receipt", Tags: []string{"jobs"},
		Summary: "Get a receipt of a job",
		Description: "A receipt proves to others what the service has recorded of the job: its events, those of its secret members that you disclose, and that the signed log contains them. " +
			"Anybody can check it offline with the log's key (GET /log/key). The receipt of a job that has not ended says so. " +
			"If no signed checkpoint contains the job's events after 5 s, the answer is 503.",
		Security: keyed(auth.ScopeRead),
		Errors:   []int{http.StatusNotFound, http.StatusGone},
		Metadata: waits(nil),
		Responses: map[string]*huma.Response{"200": {Description: "A receipt, or a proof.", Content: map[string]*huma.MediaType{
			"application/json": {Schema: receiptSchema()},
			textType:           {Schema: &huma.Schema{Type: huma.TypeString}},
		}}},
	}, s.receipt)
}

func (s *server) receipt(ctx context.Context, in *receiptInput) (*receiptOutput, error) {
	evidence, err := s.Store.Evidence(ctx, in.ID, strings.Split(in.Disclose, ","))
	if err := owned(ctx, evidence.Job, err); err != nil {
		return nil, err
	}
	proof, err := s.prove(ctx, events.JobStream(in.ID), evidence)
	if err != nil {
		return nil, err
	}
	r := receipt.Receipt{
		Format: receipt.Format, Job: in.ID.String(), Events: evidence.Payloads, Openings: evidence.Openings,
		Proofs: proof.Inclusions, Checkpoint: proof.Checkpoint, LogKeys: proof.Keys,
	}
	out := &receiptOutput{ContentType: "application/json", CacheControl: "private, no-cache", Vary: "Authorization"}
	if in.Format == "tlog-proof" {
		out.ContentType, out.Body = textType, []byte(r.TlogProof())
		return out, nil
	}
	if out.Body, err = json.Marshal(r); err != nil {
		return nil, fmt.Errorf("encode the receipt of %s: %w", in.ID, err)
	}
	out.Body = append(out.Body, '\n')
	return out, nil
}

// prove returns the proof that the log contains the events of a job. It waits for the
// checkpoint that contains them, up to receiptWait.
func (s *server) prove(ctx context.Context, stream events.Stream, evidence events.Evidence) (*ledger.Proof, error) {
	var versions []int
	for i, needed := range receipt.NeedsProof(evidence.Schemas) {
		if needed {
			versions = append(versions, i+1)
		}
	}
	waiting, stop := s.waiting(ctx)
	defer stop()
	waiting, cancel := context.WithTimeout(waiting, receiptWait)
	defer cancel()
	for {
		proof, err := s.Ledger.Prove(ctx, string(stream), versions)
		if !errors.Is(err, ledger.ErrNotCovered) {
			return proof, err
		}
		select {
		case <-waiting.Done():
			return nil, err
		case <-time.After(receiptPoll):
		}
	}
}

// receiptSchema describes a receipt. Huma would describe the hashes of a receipt as arrays of
// numbers, but they are texts in JSON.
func receiptSchema() *huma.Schema {
	base64 := func(doc string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeString, ContentEncoding: "base64", Description: doc}
	}
	text := func(doc string) *huma.Schema { return &huma.Schema{Type: huma.TypeString, Description: doc} }
	list := func(doc string, of *huma.Schema) *huma.Schema {
		return &huma.Schema{Type: huma.TypeArray, Description: doc, Items: of}
	}
	object := func(doc string, members map[string]*huma.Schema) *huma.Schema {
		o := &huma.Schema{Type: huma.TypeObject, Description: doc, Properties: members, AdditionalProperties: false}
		for name := range members {
			o.Required = append(o.Required, name)
		}
		slices.Sort(o.Required)
		return o
	}
	named := func(doc string, of *huma.Schema) *huma.Schema {
		return &huma.Schema{Type: huma.TypeObject, Description: doc, AdditionalProperties: of}
	}
	opening := object("Shows a member.", map[string]*huma.Schema{"blinding": base64("The blinding value."), "value": base64("The value as canonical JSON.")})
	inclusion := object("Shows that the log contains an event.", map[string]*huma.Schema{
		"index":  {Type: huma.TypeInteger, Format: "int64", Description: "The event's index in the log, from 0."},
		"hashes": list("The audit path.", base64("A hash of the audit path of RFC 6962, from the leaf to the root.")),
	})
	r := object("The format is specified in docs/receipts.md.", map[string]*huma.Schema{
		"format":     {Type: huma.TypeString, Enum: []any{receipt.Format}, Description: "The format of the receipt."},
		"job":        {Type: huma.TypeString, Format: "uuid", Description: "The job's id."},
		"events":     list("All events of the job.", base64("The payload of an event, from version 1 on.")),
		"openings":   named("Secret members that are shown, by version.", named("By name.", opening)),
		"proofs":     named("Proofs of events, by version. The last event has one.", inclusion),
		"checkpoint": text("A signed checkpoint of the log (c2sp.org/tlog-checkpoint)."),
		"log_keys":   list("The keys of the checkpoint.", text("A key that has signed the checkpoint, in the form NAME+HASH+KEY.")),
	})
	r.Required = slices.DeleteFunc(r.Required, func(name string) bool { return name == "openings" })
	return r
}
