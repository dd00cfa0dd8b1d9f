/*
Package client calls a Colophon service.

# A text

[New] returns a client of the service at a URL. [Client.SignIn] signs in as a
user, and [Client.Generate] returns a completed text:

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

[Client.Register] creates the account and needs no sign-in. The client renews an
expired access token, and signs in again when the session has ended. A client with
an API key (Options.APIKey) needs no sign-in either. [Client.CreateKey],
[Client.Keys] and [Client.RevokeKey] manage the keys of the user, who must be
signed in for it.

# A job

A job generates each text. [Client.Submit] returns as soon as the job is on
record. From then on the service runs it, whatever happens to the client.
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

Follow yields every event once and in order, and reconnects as often as
necessary. A restarted program passes the version of the last event that it has
seen, and gets the later ones. [Client.Wait] returns the job when it has
ended, [Client.Poll] asks whether it has changed, [Client.Events] returns the
events so far, and [Client.Cancel] ends the job. [Client.Jobs] yields the user's
jobs in any state, and [Client.History] the completed ones. [Client.JobAtVersion], [Client.JobAtTime] and
[Client.HistoryAsOf] return what the service would have returned earlier.
[Client.Feed] follows all of the
user's jobs and the account in one stream. [Client.Detect] looks for the user's
watermark in a text.

# Errors

An error answer of the service is a [*Problem], whose Code says what went wrong:

	if p, ok := errors.AsType[*client.Problem](err); ok && p.Code == "no_room" {
		// the prompt is too long
	}

The client retries a call when that may help: after a connection error or a
timeout of a try, and after the statuses 408, 429 and 5xx. It waits as long as
Retry-After says. Without Retry-After, the pause grows with each try. A call ends
with its context, or after the last of Options.Tries. All tries of a POST carry
the same Idempotency-Key, so a job whose answer was lost is not created twice. A
caller that sets JobRequest.Key gets the same guarantee across its own restarts.

[ErrProtocol] marks an answer that the API does not allow.

# Lower level

[Client.Do] makes any call of the API with the same session and the same
retries. [Messages] reads any stream of server-sent events.
*/
package client
