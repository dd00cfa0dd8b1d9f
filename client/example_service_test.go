package client_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"

	"colophon/client"
)

// The service of the examples has one account and one job. Few of its answers depend on the
// request.

const jobID = "01a2065b-cc6a-7336-8e81-69d56381a340"

const completed = `{"id":"` + jobID + `","state":"completed","prompt":"The nature of light","generated_text":"The nature of light and colours",` +
	`"completion":" and colours","usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6},"finish_reason":"length","version":5}`

var events = []string{
	`{"version":1,"type":"job.accepted","at":"2026-11-23T03:03:29Z","prompt":"The nature of light"}`,
	`{"version":2,"type":"job.started","at":"2026-11-23T03:03:29Z","attempt":1}`,
	`{"version":3,"type":"job.advanced","at":"2026-11-23T03:03:29Z","tokens":[305],"text":" and"}`,
	`{"version":4,"type":"job.advanced","at":"2026-11-23T03:03:29Z","tokens":[840],"text":" colours"}`,
	`{"version":5,"type":"job.completed","at":"2026-11-23T03:03:29Z","finish_reason":"length"}`,
}

// serve starts the service and returns its URL. The service runs until the examples end.
func serve() string {
	mux := http.NewServeMux()
	answer := func(pattern string, status int, body string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		})
	}
	answer("POST /users", 200, `{"id":"01a2065b-cc2b-7862-aacf-fc68b0c5c43b","username":"isaac"}`)
	answer("POST /token", 200, `{"access_token":"a","token_type":"bearer","expires_in":900,"refresh_token":"r"}`)
	answer("GET /users/me", 200, `{"id":"01a2065b-cc2b-7862-aacf-fc68b0c5c43b","username":"isaac","role":"user"}`)
	answer("POST /jobs", 202, `{"id":"`+jobID+`","state":"queued","prompt":"The nature of light"}`)
	mux.HandleFunc("GET /jobs/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("at") == "3" {
			io.WriteString(w, `{"id":"`+jobID+`","state":"running","prompt":"The nature of light","completion":" and","version":3}`)
			return
		}
		io.WriteString(w, completed)
	})
	answer("POST /jobs/{id}/cancel", 200, completed)
	mux.HandleFunc("POST /generate", func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), `"prompt":""`) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(422)
			io.WriteString(w, `{"title":"Unprocessable Entity","status":422,"detail":"body.prompt: expected length >= 1",`+
				`"errors":[{"message":"expected length >= 1","location":"body.prompt"}],"error":{"code":"invalid_request"}}`)
			return
		}
		io.WriteString(w, completed)
	})
	mux.HandleFunc("GET /jobs/{id}/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		after, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
		for i, data := range events[after:] {
			fmt.Fprintf(w, "id: %d\ndata: %s\n\n", after+i+1, data)
		}
	})
	mux.HandleFunc("GET /history", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("before") == "" {
			w.Header().Set("Link", `</history?before=2&limit=2>; rel="next"`)
			io.WriteString(w, `[{"id":"3","prompt":"The nature of light"},{"id":"2","prompt":"Of Colours"}]`)
			return
		}
		io.WriteString(w, `[{"id":"1","prompt":"In a very dark Chamber"}]`)
	})
	mux.HandleFunc("GET /jobs", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("state") == "queued,running" {
			io.WriteString(w, `[{"id":"5","state":"queued","prompt":"Opticks"},{"id":"4","state":"running","prompt":"Query 31"}]`)
		}
	})
	answer("GET /usage", 200, `{"from":"2026-08-01","to":"2026-08-02","days":[{"day":"2026-08-01","jobs":0,"total_tokens":0},`+
		`{"day":"2026-08-02","jobs":3,"prompt_tokens":12,"completion_tokens":150,"total_tokens":162}],"total":{"jobs":3,"total_tokens":162}}`)
	return httptest.NewServer(mux).URL
}

// signedIn returns a client of the account.
func signedIn() *client.Client {
	c, err := client.New(serve(), client.Options{})
	if err == nil {
		err = c.SignIn(context.Background(), "isaac", "opticks-1704")
	}
	if err != nil {
		log.Fatal(err)
	}
	return c
}
