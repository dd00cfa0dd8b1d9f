// Command ogencall submits a job with the client that ogen generates, and reads its events.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/google/uuid"
	"github.com/ogen-go/ogen/ogenerrors"

	"colophon/test/clients/generated/ogenclient"
)

// token is the only way in that this client has.
type token string

func (t token) AccessToken(context.Context, ogenclient.OperationName) (ogenclient.AccessToken, error) {
	return ogenclient.AccessToken{Token: string(t)}, nil
}

func (token) ApiKey(context.Context, ogenclient.OperationName) (ogenclient.ApiKey, error) {
	return ogenclient.ApiKey{}, ogenerrors.ErrSkipClientSecurity
}

func (token) Ticket(context.Context, ogenclient.OperationName) (ogenclient.Ticket, error) {
	return ogenclient.Ticket{}, ogenerrors.ErrSkipClientSecurity
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	client, err := ogenclient.NewClient(os.Getenv("URL"), token(os.Getenv("TOKEN")))
	if err != nil {
		return err
	}
	// Only the prompt is mandatory.
	answer, err := client.SubmitJob(ctx, &ogenclient.GenerateRequest{Prompt: "The nature of light"}, ogenclient.SubmitJobParams{})
	if err != nil {
		return err
	}
	job, ok := answer.(*ogenclient.JobHeaders)
	if !ok {
		return fmt.Errorf("submit: %T", answer)
	}
	found, err := client.JobEvents(ctx, ogenclient.JobEventsParams{ID: job.Response.ID})
	if err != nil {
		return err
	}
	events, ok := found.(*ogenclient.JobEventsOKApplicationJSONHeaders)
	if !ok {
		return fmt.Errorf("events: %T", found)
	}
	first, ok := events.Response[0].GetJobAcceptedEvent()
	if !ok {
		return fmt.Errorf("the first event is %s", events.Response[0].Type)
	}
	missing, err := client.GetJob(ctx, ogenclient.GetJobParams{ID: uuid.New()})
	if err != nil {
		return err
	}
	problem, ok := missing.(*ogenclient.GetJobNotFound)
	if !ok {
		return fmt.Errorf("a job that does not exist: %T", missing)
	}
	fmt.Println(first.Prompt.Value, problem.Response.Status)
	return nil
}
