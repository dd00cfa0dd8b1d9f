// Command go is a tour of package client. It creates an account and follows a job while
// the service generates the text. It resumes the stream after an event, cancels another
// job, and reads the history.
//
//	go run ./examples/go                                  # a service on this machine
//	go run ./examples/go -url https://colophon.example    # or another service
//
// The command ends with an error at the first unexpected answer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"colophon/client"
)

func main() {
	log.SetFlags(0)
	url := flag.String("url", "http://127.0.0.1:8000", "URL of the service")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx, *url, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url string, out io.Writer) error {
	c, err := client.New(url, client.Options{})
	if err != nil {
		return err
	}
	username := fmt.Sprintf("gopher-%d", time.Now().UnixNano())
	if _, err := c.Register(ctx, username, "securepassword"); err != nil {
		return err
	}
	if err := c.SignIn(ctx, username, "securepassword"); err != nil {
		return err
	}

	job, err := c.Submit(ctx, client.JobRequest{Prompt: "In a very dark Chamber", MaxLength: 60, Seed: new(uint64(1704))})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "# Job %s, as its text is generated\n%s", job.ID, job.Prompt)
	versions := 0
	for event, err := range c.Follow(ctx, job.ID, 0) {
		if err != nil {
			return err
		}
		fmt.Fprint(out, event.Text)
		versions = event.Version
	}
	fmt.Fprintf(out, "\n(%d events)\n", versions)

	fmt.Fprintln(out, "\n# Its events after version 2, as after a broken connection")
	for event, err := range c.Follow(ctx, job.ID, 2) {
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%d %s %q\n", event.Version, event.Type, event.Text)
	}

	fmt.Fprintln(out, "\n# A cancelled job")
	long, err := c.Submit(ctx, client.JobRequest{Prompt: "The nature of light", MaxNewTokens: 200})
	if err != nil {
		return err
	}
	if long, err = c.Cancel(ctx, long.ID); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s after %d tokens\n", long.State, long.Usage.CompletionTokens)

	fmt.Fprintln(out, "\n# The history, newest first")
	found := false
	for done, err := range c.History(ctx) {
		if err != nil {
			return err
		}
		found = found || done.ID == job.ID
		fmt.Fprintf(out, "%s %q: %d tokens\n", done.CreatedAt.Format(time.TimeOnly), done.Prompt, done.Usage.CompletionTokens)
	}
	if !found {
		return fmt.Errorf("job %s is not in the history", job.ID)
	}

	fmt.Fprintln(out, "\n# A refused request")
	_, err = c.Generate(ctx, client.JobRequest{Prompt: "light", MaxLength: 9})
	p, ok := errors.AsType[*client.Problem](err)
	if !ok {
		return fmt.Errorf("a text of 9 tokens: %w", err)
	}
	fmt.Fprintf(out, "%d %s: %s\n", p.Status, p.Code, p.Detail)
	return nil
}
