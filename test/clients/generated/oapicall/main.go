// Command oapicall submits a job with the client that oapi-codegen generates, and reads its
// events.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/google/uuid"

	"colophon/test/clients/generated/oapiclient"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	client, err := oapiclient.NewClientWithResponses(os.Getenv("URL"), oapiclient.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+os.Getenv("TOKEN"))
		return nil
	}))
	if err != nil {
		return err
	}
	// Only the prompt is mandatory.
	job, err := client.SubmitJobWithResponse(ctx, &oapiclient.SubmitJobParams{}, oapiclient.GenerateRequest{Prompt: "The nature of light"})
	if err != nil {
		return err
	}
	if job.JSON202 == nil {
		return fmt.Errorf("submit: %s", job.Body)
	}
	events, err := client.JobEventsWithResponse(ctx, job.JSON202.Id, &oapiclient.JobEventsParams{})
	if err != nil {
		return err
	}
	if events.JSON200 == nil {
		return fmt.Errorf("events: %s", events.Body)
	}
	event, err := (*events.JSON200)[0].ValueByDiscriminator()
	if err != nil {
		return err
	}
	first, ok := event.(oapiclient.JobAcceptedEvent)
	if !ok {
		return fmt.Errorf("the first event is %T", event)
	}
	missing, err := client.GetJobWithResponse(ctx, uuid.New(), &oapiclient.GetJobParams{})
	if err != nil {
		return err
	}
	if missing.ApplicationproblemJSON404 == nil {
		return fmt.Errorf("a job that does not exist: %s", missing.Body)
	}
	fmt.Println(*first.Prompt, missing.ApplicationproblemJSON404.Status)
	return nil
}
