package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
	"colophon/internal/webhook"
)

// Webhook is a webhook as its owner sees it. It does not have its secret.
type Webhook struct {
	ID                uuid.UUID  `json:"id" format:"uuid" doc:"The webhook's id."`
	URL               string     `json:"url" doc:"Where messages are sent."`
	Events            []string   `json:"events" enum:"job.cancelled,job.completed,job.failed,response.cancelled,response.completed,response.failed,response.incomplete" nullable:"false" doc:"The types of the events that it hears of."`
	PublicKey         string     `json:"public_key" example:"whpk_7aP8cMeZPRWQLmgLpY1hG1sjHgCPIa2yJbm+Dw4vNdU=" doc:"The Ed25519 key that verifies v1a signatures."`
	PreviousPublicKey string     `json:"previous_public_key,omitempty" doc:"The public key before the last rotation. Missing when it signs no more."`
	PreviousUntil     *time.Time `json:"previous_until,omitempty" doc:"Until when the keys before the last rotation also sign. Missing when they sign no more."`
	CreatedAt         time.Time  `json:"created_at" doc:"When it was created."`
	FailingSince      *time.Time `json:"failing_since,omitempty" doc:"When the first attempt failed after the last success. Missing after a success."`
	Enabled           bool       `json:"enabled" doc:"Whether it hears of events."`
	DisabledAt        *time.Time `json:"disabled_at,omitempty" doc:"When it was disabled."`
	DisabledFor       string     `json:"disabled_for,omitempty" enum:"owner,account,gone,failures" doc:"owner: by you. account: your account was disabled for a time. gone: the receiver answered 410. failures: attempts have failed for three days."`
}

// CreatedWebhook is a webhook with its secret.
type CreatedWebhook struct {
	Webhook
	Secret string `json:"secret" example:"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=" doc:"The secret that verifies v1 signatures. Keep it now: it is not shown again."`
}

// Delivery is a message to a webhook.
type Delivery struct {
	ID            uuid.UUID        `json:"id" format:"uuid" doc:"The message's id. The header webhook-id has it in every attempt."`
	Webhook       uuid.UUID        `json:"webhook" format:"uuid" doc:"The webhook's id."`
	Type          string           `json:"type" enum:"job.cancelled,job.completed,job.failed,response.cancelled,response.completed,response.failed,response.incomplete,webhook.ping" doc:"The type of the event."`
	Job           *uuid.UUID       `json:"job,omitempty" format:"uuid" doc:"The job that has ended. Missing for webhook.ping."`
	Version       int              `json:"version,omitempty" doc:"The version of the event that has ended the job."`
	HappenedAt    time.Time        `json:"happened_at" doc:"When the event happened, which the message has as its timestamp."`
	State         string           `json:"state" enum:"waiting,delivered,failed" doc:"waiting: for an attempt, or one is under way. delivered: the receiver has answered 2xx. failed: no further attempt is made."`
	Attempts      int              `json:"attempts" doc:"How many attempts have ended since the message was made or sent again."`
	NextAttemptAt *time.Time       `json:"next_attempt_at,omitempty" doc:"When the next attempt is made, if the message is waiting."`
	EndedAt       *time.Time       `json:"ended_at,omitempty" doc:"When the message was delivered or failed."`
	LastAttempt   *DeliveryAttempt `json:"last_attempt,omitempty" doc:"The last attempt that has ended."`
}

// DeliveryAttempt is an attempt at a message.
type DeliveryAttempt struct {
	At         time.Time `json:"at" doc:"When the attempt began."`
	DurationMS int64     `json:"duration_ms" doc:"How long it took, in milliseconds."`
	Status     int       `json:"status,omitempty" doc:"The HTTP status of the answer, if there was one."`
	Reason     string    `json:"reason,omitempty" enum:"status,redirect,gone,address,name,timeout,tls,connection" doc:"Why it failed. status: the answer is not 2xx. redirect: the answer is 3xx, which is not followed. gone: 410. address: the URL leads to an address that is not public, or is not allowed any more. name: the host name has no address. timeout: no answer within 20 seconds. tls: the certificate is not trusted. connection: no connection, or the answer is not HTTP."`
}

func webhookBody(w events.Webhook) Webhook {
	body := Webhook{
		ID: w.ID, URL: w.URL, Events: w.Events, PublicKey: webhook.Key(w.Keys[0]).PublicText(), CreatedAt: w.CreatedAt,
		FailingSince: optional(w.FailingSince), Enabled: w.DisabledAt.IsZero(), DisabledAt: optional(w.DisabledAt), DisabledFor: w.DisabledFor,
	}
	if w.PreviousSign {
		body.PreviousPublicKey, body.PreviousUntil = webhook.Key(w.Keys[1]).PublicText(), optional(w.PreviousUntil)
	}
	return body
}

func createdWebhookBody(w events.Webhook) CreatedWebhook {
	return CreatedWebhook{webhookBody(w), webhook.Key(w.Keys[0]).SecretText()}
}

func deliveryBody(d events.Delivery) Delivery {
	body := Delivery{
		ID: d.ID, Webhook: d.Webhook, Type: d.Type, Version: d.Version, HappenedAt: d.HappenedAt, State: string(d.State),
		Attempts: d.Attempts, NextAttemptAt: optional(d.DueAt), EndedAt: optional(d.EndedAt),
	}
	if d.Job != uuid.Nil {
		body.Job = &d.Job
	}
	if !d.AttemptedAt.IsZero() {
		body.LastAttempt = &DeliveryAttempt{d.AttemptedAt, d.Took.Milliseconds(), d.Status, d.Reason}
	}
	return body
}

type createWebhookInput struct {
	Body struct {
		URL    string   `json:"url" minLength:"1" maxLength:"2048" example:"https://example.com/colophon" doc:"Where messages are sent: an https URL of a host with a public address, without user name and fragment."`
		Events []string `json:"events,omitempty" enum:"job.cancelled,job.completed,job.failed,response.cancelled,response.completed,response.failed,response.incomplete" minItems:"1" maxItems:"7" doc:"The types of the events to hear of; the three of jobs if missing. Those of responses are for jobs of POST /v1/responses, beside the ones of jobs."`
	}
}

type updateWebhookInput struct {
	ID   uuid.UUID `path:"id" format:"uuid" doc:"The webhook's id."`
	Body struct {
		URL     *string  `json:"url,omitempty" minLength:"1" maxLength:"2048" example:"https://example.com/colophon" doc:"The new URL. Messages that are waiting go there too."`
		Events  []string `json:"events,omitempty" enum:"job.cancelled,job.completed,job.failed,response.cancelled,response.completed,response.failed,response.incomplete" minItems:"1" maxItems:"7" doc:"The types of the events to hear of from now on."`
		Enabled *bool    `json:"enabled,omitempty" doc:"false: messages that are waiting fail, and events make no more. true: events make messages again."`
	}
}

type webhookInput struct {
	ID uuid.UUID `path:"id" format:"uuid" doc:"The webhook's id."`
}

type deliveriesInput struct {
	ID     uuid.UUID `path:"id" format:"uuid" doc:"The webhook's id."`
	State  string    `query:"state" enum:"waiting,delivered,failed" doc:"Only messages in this state."`
	Before uuid.UUID `query:"before" format:"uuid" doc:"Only messages that are older than this one. The Link header of a page has the value for the next one."`
	Limit  int       `query:"limit" minimum:"1" maximum:"100" default:"50" doc:"The largest number of messages in the answer."`
}

type deliveryInput struct {
	ID       uuid.UUID `path:"id" format:"uuid" doc:"The webhook's id."`
	Delivery uuid.UUID `path:"delivery" format:"uuid" doc:"The message's id."`
}

type (
	webhookOutput        struct{ Body Webhook }
	createdWebhookOutput struct{ Body CreatedWebhook }
	webhooksOutput       struct{ Body []Webhook }
	deliveryOutput       struct{ Body Delivery }
	deliveriesOutput     struct {
		Link string `header:"Link" doc:"The next page as rel=next (RFC 8288), if this page is full."`
		Body []Delivery
	}
)

// webhooks registers the operations on the caller's webhooks.
func (s *server) webhooks() {
	register(s, huma.Operation{
		OperationID: "create-webhook", Method: http.MethodPost, Path: "/webhooks", Tags: []string{"webhooks"},
		DefaultStatus: http.StatusCreated,
		Summary:       "Create a webhook",
		Description: "When one of your jobs ends, the service sends a message to the URL, as Standard Webhooks (standardwebhooks.com) describes: {type, timestamp, data}, with the job's id, its state and the version of the event, and without texts. " +
			"The events of responses (response.completed and others) have the form of OpenAI's API: {id, object, created_at, type, data}, with the id of the response. " +
			"Messages have two signatures. Verify v1 with the secret, or v1a with the public key. " +
			"A receiver answers 2xx within 20 seconds. Otherwise the message is sent again, after 5 seconds at first and then less and less often, for a day. It can arrive more than once, with the same id. " +
			"Redirects are not followed. An answer of 410, and three days of failures, disable the webhook; the event webhook.disabled of your account says so. " +
			"An account has at most 16 webhooks, beyond which the answer is 409 too_many_webhooks.",
		Security: private(),
		Metadata: limited("webhooks"),
		Errors:   []int{http.StatusConflict},
	}, s.createWebhook)
	register(s, huma.Operation{
		OperationID: "list-webhooks", Method: http.MethodGet, Path: "/webhooks", Tags: []string{"webhooks"},
		Summary:  "List your webhooks, the oldest first",
		Security: private(), // a URL may have a secret of its receiver
	}, s.listWebhooks)
	register(s, huma.Operation{
		OperationID: "get-webhook", Method: http.MethodGet, Path: "/webhooks/{id}", Tags: []string{"webhooks"},
		Summary:  "Read a webhook",
		Security: private(),
		Errors:   []int{http.StatusNotFound},
	}, func(ctx context.Context, in *webhookInput) (*webhookOutput, error) {
		return webhookAnswer(s.Store.Webhook(ctx, caller(ctx).Account, in.ID))
	})
	register(s, huma.Operation{
		OperationID: "update-webhook", Method: http.MethodPatch, Path: "/webhooks/{id}", Tags: []string{"webhooks"},
		Summary:     "Change, disable or enable a webhook",
		Description: "Members that are missing stay as they are.",
		Security:    private(),
		Metadata:    limited("webhooks"),
		Errors:      []int{http.StatusNotFound},
	}, s.updateWebhook)
	register(s, huma.Operation{
		OperationID: "delete-webhook", Method: http.MethodDelete, Path: "/webhooks/{id}", Tags: []string{"webhooks"},
		DefaultStatus: http.StatusNoContent,
		Summary:       "Delete a webhook and its messages",
		Security:      private(),
		Errors:        []int{http.StatusNotFound},
	}, func(ctx context.Context, in *webhookInput) (*struct{}, error) {
		return nil, s.Store.DeleteWebhook(ctx, caller(ctx).Account, in.ID)
	})
	register(s, huma.Operation{
		OperationID: "rotate-webhook-secret", Method: http.MethodPost, Path: "/webhooks/{id}/rotate", Tags: []string{"webhooks"},
		Summary: "Give a webhook a new secret and a new public key",
		Description: "For 24 hours, messages are signed with the new keys and with those before them, so a receiver changes its configuration without a gap. " +
			"The keys before the last rotation sign no more.",
		Security: private(),
		Metadata: limited("webhooks"),
		Errors:   []int{http.StatusNotFound},
	}, func(ctx context.Context, in *webhookInput) (*createdWebhookOutput, error) {
		w, err := s.Store.RotateWebhook(ctx, caller(ctx).Account, in.ID)
		if err != nil {
			return nil, err
		}
		return &createdWebhookOutput{createdWebhookBody(w)}, nil
	})
	s.deliveries()
}

// deliveries registers the operations on the messages to a webhook.
func (s *server) deliveries() {
	register(s, huma.Operation{
		OperationID: "list-deliveries", Method: http.MethodGet, Path: "/webhooks/{id}/deliveries", Tags: []string{"webhooks"},
		Summary:     "List the messages to a webhook, the newest first",
		Description: "Messages stay in the list for a week after they have ended. Of a webhook with more than 10000 messages, the oldest are removed.",
		Security:    keyed(auth.ScopeRead),
		Errors:      []int{http.StatusNotFound},
	}, s.listDeliveries)
	register(s, huma.Operation{
		OperationID: "resend-delivery", Method: http.MethodPost, Path: "/webhooks/{id}/deliveries/{delivery}/resend", Tags: []string{"webhooks"},
		DefaultStatus: http.StatusAccepted,
		Summary:       "Send a message again",
		Description:   "The message is sent at once. It keeps its id, and its day of attempts begins anew, also if it is waiting. For a disabled webhook the answer is 409 webhook_disabled.",
		Security:      private(),
		Metadata:      limited("webhooks"),
		Errors:        []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *deliveryInput) (*deliveryOutput, error) {
		return deliveryAnswer(s.Store.Resend(ctx, caller(ctx).Account, in.ID, in.Delivery))
	})
	register(s, huma.Operation{
		OperationID: "ping-webhook", Method: http.MethodPost, Path: "/webhooks/{id}/ping", Tags: []string{"webhooks"},
		DefaultStatus: http.StatusAccepted,
		Summary:       "Send a test message",
		Description:   "The message has the type webhook.ping and one attempt, also if the webhook is disabled. The list of messages shows the result.",
		Security:      private(),
		Metadata:      limited("webhooks"),
		Errors:        []int{http.StatusNotFound},
	}, func(ctx context.Context, in *webhookInput) (*deliveryOutput, error) {
		return deliveryAnswer(s.Store.Ping(ctx, caller(ctx).Account, in.ID))
	})
}

func webhookAnswer(w events.Webhook, err error) (*webhookOutput, error) {
	if err != nil {
		return nil, err
	}
	return &webhookOutput{webhookBody(w)}, nil
}

func deliveryAnswer(d events.Delivery, err error) (*deliveryOutput, error) {
	if err != nil {
		return nil, err
	}
	return &deliveryOutput{deliveryBody(d)}, nil
}

func (s *server) createWebhook(ctx context.Context, in *createWebhookInput) (*createdWebhookOutput, error) {
	if err := s.Webhooks.CheckURL(in.Body.URL); err != nil {
		return nil, err
	}
	types := in.Body.Events
	if len(types) == 0 {
		types = events.JobWebhookEvents()
	}
	w, err := s.Store.CreateWebhook(ctx, caller(ctx).Account, in.Body.URL, types)
	if err != nil {
		return nil, err
	}
	return &createdWebhookOutput{createdWebhookBody(w)}, nil
}

func (s *server) listWebhooks(ctx context.Context, _ *struct{}) (*webhooksOutput, error) {
	all, err := s.Store.Webhooks(ctx, caller(ctx).Account)
	if err != nil {
		return nil, err
	}
	out := &webhooksOutput{Body: make([]Webhook, len(all))}
	for i, w := range all {
		out.Body[i] = webhookBody(w)
	}
	return out, nil
}

func (s *server) updateWebhook(ctx context.Context, in *updateWebhookInput) (*webhookOutput, error) {
	if in.Body.URL != nil {
		// Whether the webhook exists comes first, so that the answer about an unknown one does
		// not depend on the body.
		if _, err := s.Store.Webhook(ctx, caller(ctx).Account, in.ID); err != nil {
			return nil, err
		}
		if err := s.Webhooks.CheckURL(*in.Body.URL); err != nil {
			return nil, err
		}
	}
	return webhookAnswer(s.Store.UpdateWebhook(ctx, caller(ctx).Account, in.ID,
		events.WebhookChange{URL: in.Body.URL, Events: in.Body.Events, Enabled: in.Body.Enabled}))
}

func (s *server) listDeliveries(ctx context.Context, in *deliveriesInput) (*deliveriesOutput, error) {
	page, err := s.Store.Deliveries(ctx, caller(ctx).Account, in.ID, events.DeliveryState(in.State), in.Before, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &deliveriesOutput{Body: make([]Delivery, len(page))}
	for i, d := range page {
		out.Body[i] = deliveryBody(d)
	}
	if len(page) == in.Limit {
		query := url.Values{"before": {page[len(page)-1].ID.String()}, "limit": {strconv.Itoa(in.Limit)}}
		if in.State != "" {
			query.Set("state", in.State)
		}
		out.Link = fmt.Sprintf("</webhooks/%s/deliveries?%s>; rel=\"next\"", in.ID, query.Encode())
	}
	return out, nil
}
