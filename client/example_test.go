package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"

	"colophon/client"
)

// A new account generates a text.
func Example() {
	ctx := context.Background()
	c, err := client.New(serve(), client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Register(ctx, "isaac", "opticks-1704"); err != nil {
		log.Fatal(err)
	}
	if err := c.SignIn(ctx, "isaac", "opticks-1704"); err != nil {
		log.Fatal(err)
	}
	job, err := c.Generate(ctx, client.JobRequest{Prompt: "The nature of light"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.GeneratedText)
	// Output: The nature of light and colours
}

// The same seed gives the same text again. Temperature 0 takes the likeliest
// token, whatever the seed.
func ExampleClient_Generate() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	job, err := signedIn().Generate(ctx, client.JobRequest{
		Prompt:       "The nature of light",
		MaxNewTokens: 2,
		Temperature:  new(0.0),
		Stop:         []string{"\n"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q, %s after %d tokens\n", job.Completion, job.FinishReason, job.Usage.CompletionTokens)
	// Output: " and colours", length after 2 tokens
}

// A program that stores its own key finds the job again after a crash, because the same
// request creates no second job.
func ExampleClient_Submit() {
	ctx := context.Background()
	c := signedIn()
	for range 2 {
		job, err := c.Submit(ctx, client.JobRequest{Prompt: "The nature of light", Key: "order-1704"})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(job.ID, job.State)
	}
	// Output:
	// 01a2065b-cc6a-7336-8e81-69d56381a340 queued
	// 01a2065b-cc6a-7336-8e81-69d56381a340 queued
}

// The text appears while it is generated.
func ExampleClient_Follow() {
	ctx := context.Background()
	c := signedIn()
	job, err := c.Submit(ctx, client.JobRequest{Prompt: "The nature of light"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(job.Prompt)
	for event, err := range c.Follow(ctx, job.ID, 0) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(event.Text)
	}
	// Output: The nature of light and colours
}

// A program that has seen version 3 continues with version 4.
func ExampleClient_Follow_resume() {
	for event, err := range signedIn().Follow(context.Background(), jobID, 3) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Version, event.Type, event.Text)
	}
	// Output:
	// 4 job.advanced  colours
	// 5 job.completed
}

// Poll costs the service less than Job, because the answer for an unchanged job is empty.
func ExampleClient_Poll() {
	ctx := context.Background()
	c := signedIn()
	job := &client.Job{ID: jobID}
	for !job.State.Final() {
		if _, err := c.Poll(ctx, job); err != nil {
			log.Fatal(err)
		}
		time.Sleep(job.RetryAfter)
	}
	fmt.Println(job.State)
	// Output: completed
}

func ExampleClient_Cancel() {
	job, err := signedIn().Cancel(context.Background(), jobID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.State) // the job had already ended
	// Output: completed
}

// Every event of a job has a version, at which the job can be looked at later.
func ExampleClient_JobAtVersion() {
	job, err := signedIn().JobAtVersion(context.Background(), jobID, 3)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %q\n", job.State, job.Completion)
	// Output: running: " and"
}

// History requests no more pages than the loop needs.
func ExampleClient_History() {
	for job, err := range signedIn().History(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(job.Prompt)
	}
	// Output:
	// The nature of light
	// Of Colours
	// In a very dark Chamber
}

func ExampleClient_Jobs() {
	outstanding := client.JobFilter{States: []client.State{client.Queued, client.Running}}
	for job, err := range signedIn().Jobs(context.Background(), outstanding) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(job.State, job.Prompt)
	}
	// Output:
	// queued Opticks
	// running Query 31
}

func ExampleClient_Usage() {
	from := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	report, err := signedIn().Usage(context.Background(), from, from.AddDate(0, 0, 1), "")
	if err != nil {
		log.Fatal(err)
	}
	for _, day := range report.Days {
		fmt.Println(day.Day, day.Jobs, day.TotalTokens)
	}
	// Output:
	// 2026-08-01 0 0
	// 2026-08-02 3 162
}

func ExampleProblem() {
	c := signedIn()
	_, err := c.Generate(context.Background(), client.JobRequest{})
	if p, ok := errors.AsType[*client.Problem](err); ok {
		fmt.Println(p.Status, p.Code)
		fmt.Println(p.Detail)
		for _, fault := range p.Faults {
			fmt.Println(fault.Location)
		}
	}
	// Output:
	// 422 invalid_request
	// body.prompt: expected length >= 1
	// body.prompt
}

// A program that runs occasionally stores its tokens, not the password.
func ExampleClient_Tokens() {
	c := signedIn()
	saved, err := json.Marshal(c.Tokens())
	if err != nil {
		log.Fatal(err)
	}

	var tokens client.Tokens
	if err := json.Unmarshal(saved, &tokens); err != nil {
		log.Fatal(err)
	}
	again, err := client.New(serve(), client.Options{Tokens: tokens})
	if err != nil {
		log.Fatal(err)
	}
	job, err := again.Job(context.Background(), jobID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.State)
	// Output: completed
}

// Calls are spread over two replicas, over at most 100 connections to each.
func ExampleOptions() {
	replicas := []string{serve(), serve()}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxConnsPerHost, transport.MaxIdleConnsPerHost = 100, 100
	c, err := client.New(replicas[0], client.Options{
		Transport: transport,
		Base:      func() string { return replicas[rand.IntN(len(replicas))] },
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.SignIn(context.Background(), "isaac", "opticks-1704"))
	// Output: <nil>
}

// Do calls any route of the API.
func ExampleClient_Do() {
	resp, err := signedIn().Do(context.Background(), &client.Request{Path: "/users/me"})
	if err != nil {
		log.Fatal(err)
	}
	os.Stdout.Write(resp.Body)
	// Output: {"id":"01a2065b-cc2b-7862-aacf-fc68b0c5c43b","username":"isaac","role":"user"}
}

func ExampleMessages() {
	stream := strings.NewReader("id: 1\nevent: job.accepted\ndata: {}\n\n: still here\n\nretry: 500\n\n")
	for m, err := range client.Messages(stream) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q %q %q %q\n", m.ID, m.Event, m.Data, m.Retry)
	}
	// Output:
	// "1" "job.accepted" "{}" ""
	// "" "" "" ""
	// "" "" "" "500"
}
