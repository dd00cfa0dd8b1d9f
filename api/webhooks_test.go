package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/test/apitest"
)

// hook is a webhook as the service answers it.
type hook struct {
	ID, URL           string
	Events            []string
	Secret            string
	PublicKey         string     `json:"public_key"`
	PreviousPublicKey string     `json:"previous_public_key"`
	PreviousUntil     *time.Time `json:"previous_until"`
	Enabled           bool
	DisabledFor       string `json:"disabled_for"`
}

type delivery struct {
	ID, Webhook, Type, Job, State string
	Attempts, Version             int
}

const hookURL = "https://hooks.example.com/path?token=canary-of-a-url"

func createHook(c apitest.Client, body string) (w hook) {
	c.T.Helper()
	c.Do("POST", "/webhooks", body).Must(c.T, 201).Into(c.T, &w)
	return w
}

// TestWebhookIsCreatedChangedAndDeleted goes through the life of a webhook. Only two answers
// may have its secret, and neither the log nor the account's events may have its URL.
//
// security: ASVS 16.2.5
func TestWebhookIsCreatedChangedAndDeleted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := createHook(f.Client, fmt.Sprintf(`{"url":%q}`, hookURL))
	if w.URL != hookURL || strings.Join(w.Events, " ") != "job.cancelled job.completed job.failed" || !strings.HasPrefix(w.Secret, "whsec_") || len(w.Secret) != 50 ||
		!strings.HasPrefix(w.PublicKey, "whpk_") || !w.Enabled || w.PreviousUntil != nil {
		t.Errorf("%+v", w)
	}
	path := "/webhooks/" + w.ID
	same := func(a apitest.Answer, want hook) {
		t.Helper()
		want.Secret = ""
		var got hook
		a.Must(t, 200).Into(t, &got)
		if fmt.Sprint(got) != fmt.Sprint(want) || strings.Contains(string(a.Body), "whsec_") {
			t.Errorf("%s, want %+v", a.Body, want)
		}
	}
	same(f.Do("GET", path, ""), w)
	var all []hook
	if f.Do("GET", "/webhooks", "").Must(t, 200).Into(t, &all); len(all) != 1 || all[0].ID != w.ID {
		t.Errorf("%+v", all)
	}
	var rotated hook
	f.Do("POST", path+"/rotate", "").Must(t, 200).Into(t, &rotated)
	if rotated.Secret == w.Secret || rotated.PublicKey == w.PublicKey || rotated.PreviousPublicKey != w.PublicKey || rotated.PreviousUntil == nil {
		t.Errorf("%+v", rotated)
	}
	rotated.URL, rotated.Events, rotated.Enabled, rotated.DisabledFor = "https://other.example.com/", []string{"job.failed"}, false, "owner"
	same(f.Do("PATCH", path, `{"url":"https://other.example.com/","events":["job.failed","job.failed"],"enabled":false}`), rotated)
	same(f.Do("PATCH", path, `{}`), rotated)
	rotated.Enabled, rotated.DisabledFor = true, ""
	same(f.Do("PATCH", path, `{"enabled":true,"url":null}`), rotated)
	f.Do("DELETE", path, "").Must(t, 204)
	for _, r := range [][2]string{{"GET", path}, {"DELETE", path}, {"POST", path + "/rotate"}, {"POST", path + "/ping"}, {"GET", path + "/deliveries"}, {"POST", path + "/deliveries/" + w.ID + "/resend"}} {
		f.Do(r[0], r[1], "").Refused(t, 404, "not_found")
	}
	f.Do("PATCH", path, `{}`).Refused(t, 404, "not_found")
	recorded, err := f.store.Read(t.Context(), events.AccountStream(f.owner), 0)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, e := range recorded {
		if strings.HasPrefix(e.Fact.Type(), "webhook.") {
			types = append(types, e.Fact.Type())
		}
		if c, ok := e.Fact.(events.WebhookCreated); ok && c.Host != "hooks.example.com" {
			t.Errorf("%+v", c)
		}
	}
	if want := []string{"webhook.created", "webhook.secret_rotated", "webhook.updated", "webhook.updated", "webhook.deleted"}; !slices.Equal(types, want) {
		t.Errorf("%v, want %v", types, want)
	}
	for _, secret := range []string{"canary-of-a-url", "hooks.example.com", w.Secret, rotated.Secret} {
		if strings.Contains(f.log.String(), secret) {
			t.Errorf("the log has %s", secret)
		}
	}
}

// TestWebhookRequestsAreChecked sends requests for webhooks that must be refused.
//
// security: ASVS 2.2.1, ASVS 1.3.6, API7:2023
func TestWebhookRequestsAreChecked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := createHook(f.Client, `{"url":"https://example.com/"}`)
	for body, code := range map[string]string{
		`{"url":"example.com"}`:                                    "webhook_url",
		`{"url":"http://example.com/"}`:                            "webhook_not_https",
		`{"url":"https://user:pass@example.com/"}`:                 "webhook_url",
		`{"url":"https://127.0.0.1/"}`:                             "webhook_address",
		`{"url":"https://[::ffff:169.254.169.254]/"}`:              "webhook_address",
		`{"url":"https://2130706433/"}`:                            "webhook_url",
		`{"url":""}`:                                               "invalid_request",
		`{"url":17}`:                                               "invalid_request",
		`{"url":"https://` + strings.Repeat("a", 2100) + `"}`:      "invalid_request",
		`{"url":"https://example.com/","events":[]}`:               "invalid_request",
		`{"url":"https://example.com/","events":["job.accepted"]}`: "invalid_request",
		`{"url":"https://example.com/","events":["job.failed"` + strings.Repeat(`,"job.failed"`, 7) + `]}`: "invalid_request",
		`{"url":"https://example.com/","secret":"whsec_AAAA"}`:                                             "invalid_request",
	} {
		for _, r := range [][2]string{{"POST", "/webhooks"}, {"PATCH", "/webhooks/" + w.ID}} {
			if a := f.Do(r[0], r[1], body); a.Status != 422 || a.Code() != code || strings.Contains(string(a.Body), "127.0.0.1") {
				t.Errorf("%s %s: %d %s, want 422 %s", r[0], body, a.Status, a.Body, code)
			}
		}
	}
	f.Do("POST", "/webhooks", `{}`).Refused(t, 422, "invalid_request")
	for i := 1; i < events.MaxWebhooks; i++ {
		createHook(f.Client, `{"url":"https://example.com/"}`)
	}
	f.Do("POST", "/webhooks", `{"url":"https://example.com/"}`).Refused(t, 409, "too_many_webhooks")
}

// TestDeliveriesArePaged makes messages, reads them in pages and requests some again. Another
// account must see none of it.
//
// security: ASVS 8.2.2, API1:2023
func TestDeliveriesArePaged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := createHook(f.Client, `{"url":"https://example.com/"}`)
	path := "/webhooks/" + w.ID + "/deliveries"
	job := f.Submit(prompt)
	f.Do("POST", "/jobs/"+job+"/cancel", "").Must(t, 200)
	for range 4 {
		f.Do("POST", "/webhooks/"+w.ID+"/ping", "").Must(t, 202)
	}
	var got []delivery
	next := path + "?limit=2"
	for next != "" {
		a := f.Do("GET", next, "").Must(t, 200)
		var page []delivery
		a.Into(t, &page)
		got = append(got, page...)
		next, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
	}
	if len(got) != 5 || got[0].Type != "webhook.ping" || got[4].Type != "job.cancelled" || got[4].Job != job || got[4].State != "waiting" || got[4].Webhook != w.ID || got[4].Version != 2 {
		t.Fatalf("%+v", got)
	}
	var some []delivery
	if f.Do("GET", path+"?state=failed", "").Must(t, 200).Into(t, &some); len(some) != 0 {
		t.Errorf("%+v", some)
	}
	last := got[4].ID
	if _, err := f.db.Owner.Exec(t.Context(), `update webhook_deliveries set state = 'failed', due_at = null, give_up_at = null, ended_at = now() where id = $1`, last); err != nil {
		t.Fatal(err)
	}
	a := f.Do("GET", path+"?state=failed&limit=1", "").Must(t, 200)
	if a.Into(t, &some); len(some) != 1 || some[0].ID != last || !strings.Contains(a.Header.Get("Link"), "state=failed") {
		t.Errorf("%+v, %v", some, a.Header)
	}
	_, stranger := f.user("somebody-else")
	for _, r := range [][2]string{{"GET", path}, {"POST", path + "/" + last + "/resend"}, {"POST", "/webhooks/" + w.ID + "/ping"}} {
		f.As(stranger).Do(r[0], r[1], "").Refused(t, 404, "not_found")
	}
	var again delivery
	for range 2 { // sending a waiting message again changes nothing
		if f.Do("POST", path+"/"+last+"/resend", "").Must(t, 202).Into(t, &again); again.ID != last || again.State != "waiting" {
			t.Errorf("%+v", again)
		}
	}
	f.Do("POST", path+"/"+uuid.NewString()+"/resend", "").Refused(t, 404, "not_found")
	f.Do("GET", path+"?before="+uuid.NewString(), "").Refused(t, 404, "not_found")
	f.Do("PATCH", "/webhooks/"+w.ID, `{"enabled":false}`).Must(t, 200)
	f.Do("POST", path+"/"+last+"/resend", "").Refused(t, 409, "webhook_disabled")
	f.Do("POST", "/webhooks/"+w.ID+"/ping", "").Must(t, http.StatusAccepted)
}

// TestWebhooksEndWithTheirAccount disables an account and enables it again, and erases it. A
// disabled account's webhooks must stay disabled, and nothing of an erased one's may be left.
//
// security: ASVS 8.3.2
func TestWebhooksEndWithTheirAccount(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, access := f.user("somebody-else")
	c := f.As(access)
	w := createHook(c, `{"url":"https://example.com/"}`)
	waiting := c.Submit(prompt)
	c.Do("POST", "/jobs/"+c.Submit(prompt)+"/cancel", "").Must(t, 200)
	if _, err := f.db.Owner.Exec(t.Context(), `update accounts set role = 'admin' where id = $1`, f.owner); err != nil {
		t.Fatal(err)
	}
	f.Do("POST", "/users/"+id.String()+"/disable", "").Must(t, 200)
	f.Do("POST", "/users/"+id.String()+"/enable", "").Must(t, 200)
	c = f.As(f.SignIn("somebody-else", "a long sentence").Access)
	var now hook
	if c.Do("GET", "/webhooks/"+w.ID, "").Must(t, 200).Into(t, &now); now.Enabled || now.DisabledFor != "account" {
		t.Errorf("%+v", now)
	}
	var all []delivery
	if c.Do("GET", "/webhooks/"+w.ID+"/deliveries", "").Must(t, 200).Into(t, &all); len(all) != 1 || all[0].State != "failed" {
		t.Errorf("%+v", all)
	}
	c.Do("PATCH", "/webhooks/"+w.ID, `{"enabled":true}`).Must(t, 200)
	c.Do("DELETE", "/users/me", `{"password":"a long sentence"}`).Must(t, 204) // cancels the other job
	if job, err := f.store.Job(t.Context(), uuid.MustParse(waiting)); err != nil || job.State != events.Cancelled {
		t.Errorf("%+v, %v", job, err)
	}
	var left int
	if err := f.db.Owner.QueryRow(t.Context(), `select (select count(*) from webhooks) + (select count(*) from webhook_deliveries)`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d rows are left, %v", left, err)
	}
}

// TestWebhookHearsOfAResponse makes a response. Its webhook must have a message with the id
// under which the API serves it.
func TestWebhookHearsOfAResponse(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	var hook struct {
		ID     string
		Events []string
	}
	f.Do("POST", "/webhooks", `{"url":"https://example.com/","events":["response.completed","response.incomplete"]}`).Must(t, 201).Into(t, &hook)
	complete := f.respond(f.Client, `"input":"Light"`)
	short := f.respond(f.Client, `"input":"Light","max_output_tokens":2`)
	f.Do("POST", "/v1/chat/completions", `{"model":"opticks","messages":[{"role":"user","content":"light"}]}`).Must(t, 200)
	var list []struct{ Type, Job string }
	f.Do("GET", "/webhooks/"+hook.ID+"/deliveries", "").Must(t, 200).Into(t, &list)
	if len(list) != 2 || list[0].Type != "response.incomplete" || events.ResponsePrefix+list[0].Job != short.ID || list[1].Type != "response.completed" || events.ResponsePrefix+list[1].Job != complete.ID {
		t.Errorf("%+v of %s and %s", list, complete.ID, short.ID)
	}
	var plain struct{ Events []string }
	f.Do("POST", "/webhooks", `{"url":"https://example.com/"}`).Must(t, 201).Into(t, &plain)
	if want := "[job.cancelled job.completed job.failed]"; fmt.Sprint(plain.Events) != want {
		t.Errorf("%v, want %s: the end of a response would be said twice", plain.Events, want)
	}
}
