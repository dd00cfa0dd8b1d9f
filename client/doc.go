/*
Package client calls a Colophon service.

# A text

[New] makes a client of the service at a URL. [Client.SignIn] makes it the
client of a user, and [Client.Generate] returns a completed text:

	c, err := client.New("http://127.0.0.1:8000", client.Options{})
	if err != nil {
		return err
	}
	if err := c.SignIn(ctx, "isaac", "opticks-1704"); err != nil {
		return err
	}
	job, err := c.Generate(ctx, client.JobRequest{Prompt: "The nature of light"})
	if err != nil {
		return err
	}
	fmt.Println(job.GeneratedText)

[Client.Register] makes the account, which needs no sign-in. The client renews
its access token when it has expired, and signs in again when the session has
ended.

# A job

Each text is the work of a job. [Client.Submit] returns as soon as the job is on
record. From then on the service finishes it, whatever happens to the client.
[Client.Follow] yields the job's events as they happen:

	job, err := c.Submit(ctx, client.JobRequest{Prompt: "The nature of light"})
	if err != nil {
		return err
	}
	for event, err := range c.Follow(ctx, job.ID, 0) {
		if err != nil {
			return err
		}
		fmt.Print(event.Text)
	}

Follow yields every event once and in order, over as many connections as that
takes. A program that has stopped passes the version of the last event that it
has seen, and gets those after it. [Client.Wait] returns the job when it has
ended, [Client.Poll] asks whether it has changed, [Client.Events] returns the
events so far, and [Client.Cancel] ends the job. [Client.History] yields the
user's completed jobs.

# Errors

An error answer of the service is a [*Problem], whose Code says what went wrong:

	if p, ok := errors.AsType[*client.Problem](err); ok && p.Code == "no_room" {
		// the prompt is too long
	}

A call is tried again when that may help: after an error of the connection or a
timeout of a try, and after the statuses 408, 429 and 5xx. It waits as long as
Retry-After says, and longer with each try otherwise. It ends with its context,
or with the last of Options.Tries. Requests that make something carry the same
Idempotency-Key with every try, so that a job whose answer was lost is not made
twice. A caller that gives the key itself, in JobRequest.Key, gets the same over
the end of its own process.

[ErrProtocol] marks an answer that the API does not allow.

# Below

[Client.Do] makes any call of the API with the same session and the same
retries. [Messages] reads any stream of server-sent events.
*/
package client
