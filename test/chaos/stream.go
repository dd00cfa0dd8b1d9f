package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// silence is how long a stream may say nothing before its client connects anew:
// half as much again as the time between heartbeats.
const silence = 15 * time.Second

// follow reads the job's stream to its last event, over as many connections as
// it takes. Now and then it cuts the connection itself.
func (u *user) follow(ctx context.Context, o *observation) error {
	for {
		err := u.connect(ctx, o)
		switch {
		case o.ended():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errAnswer):
			return err
		}
		if err := sleep(ctx, rand.N(300*time.Millisecond)); err != nil {
			return err
		}
	}
}

// connect reads the stream from where it was left, until the connection ends.
func (u *user) connect(ctx context.Context, o *observation) error {
	access, err := u.token(ctx, "")
	if err != nil {
		return err
	}
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	req, err := http.NewRequestWithContext(ctx, "GET", u.base()+"/jobs/"+o.job+"/events", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Authorization", "Bearer "+access)
	if last := o.last(); last > 0 {
		req.Header.Set("Last-Event-ID", strconv.Itoa(last))
	}
	quiet := time.AfterFunc(silence, hangUp)
	defer quiet.Stop()
	resp, err := u.http.Do(req)
	if err != nil {
		u.count.broken.Add(1)
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		_, err := u.token(ctx, access)
		return err
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		u.count.refused(resp.StatusCode)
		return nil
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%w: GET of the stream of a job that was accepted was answered %d", errAnswer, resp.StatusCode)
	}
	if len(o.events) > 0 {
		u.count.resumed.Add(1)
	}
	most := -1 // messages
	if rand.IntN(3) == 0 {
		most = 1 + rand.IntN(6)
	}
	body := heard{resp.Body, func() { quiet.Reset(silence) }}
	return messages(body, func(e event) bool {
		o.events = append(o.events, e)
		most--
		return most != 0
	})
}

// heard calls fn whenever something is read.
type heard struct {
	io.Reader
	fn func()
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.Reader.Read(b)
	if n > 0 {
		h.fn()
	}
	return n, err
}

// messages reads server-sent events and passes on each that is complete, until
// fn has had enough. What an unfinished message holds is dropped.
func messages(r io.Reader, fn func(event) bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	var id, data string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			id = value
		case "data":
			data += value
		}
		if lines.Text() != "" || data == "" {
			continue
		}
		var e event
		if err := json.Unmarshal([]byte(data), &e); err != nil || strconv.Itoa(e.Version) != id {
			return fmt.Errorf("%w: the message %s of a stream has the id %s", errAnswer, quote(data), quote(id))
		}
		id, data = "", ""
		if !fn(e) {
			return nil
		}
	}
	return lines.Err()
}
