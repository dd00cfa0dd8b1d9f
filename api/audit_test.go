package api_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/api"
	"colophon/events"
	"colophon/internal/auth"
	"colophon/test/apitest"
)

// auditor registers an account with the role of an auditor, and returns its client.
func (f *fixture) auditor() (id uuid.UUID, c apitest.Client) {
	f.T.Helper()
	id, access := f.user("the-auditor")
	if _, err := f.accounts().SetRole(f.T.Context(), id, auth.Auditor); err != nil {
		f.T.Fatal(err)
	}
	return id, f.As(access)
}

// auditPages reads an audit as JSON, page by page.
func auditPages(t *testing.T, c apitest.Client, path string) (list []api.AuditEvent, pages int) {
	t.Helper()
	for path != "" {
		a := c.Do("GET", path, "").Must(t, 200)
		var page []api.AuditEvent
		a.Into(t, &page)
		list = append(list, page...)
		path, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">; rel=\"next\"")
		pages++
	}
	return list, pages
}

// exported reads an audit as NDJSON.
func exported(t *testing.T, c apitest.Client, path string) (list []api.AuditEvent) {
	t.Helper()
	a := c.Do("GET", path, "", "Accept", "application/x-ndjson").Must(t, 200)
	if media := a.Header.Get("Content-Type"); media != "application/x-ndjson" {
		t.Errorf("Content-Type %q", media)
	}
	for lines := bufio.NewScanner(bytes.NewReader(a.Body)); lines.Scan(); {
		var e api.AuditEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// TestAuditHasMetadataOnly reads the log as an auditor. It must have every event, with those
// who caused it and the rules of refusals, and no prompt and no name.
//
// security: ASVS 8.2.2, API3:2023
func TestAuditHasMetadataOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, auditor := f.auditor()
	job := f.Submit(prompt)
	f.Do("POST", "/jobs/"+job+"/cancel", "").Must(t, 200)
	f.Do("POST", "/jobs", `{"prompt":"such violence"}`).Refused(t, 422, "prompt_word")
	f.sequence()
	list, _ := auditPages(t, auditor, "/audit")
	said := map[string]api.AuditEvent{}
	for i, e := range list {
		if e.Index != int64(i) || e.At.IsZero() || e.Damaged {
			t.Errorf("%d: %+v", i, e)
		}
		said[e.Type+" "+e.Stream] = e
	}
	for what, want := range map[string]api.AuditEvent{
		"account.role_changed account/" + id.String(): {Owner: id, By: "command"},
		"job.accepted job/" + job:                     {Owner: f.owner, Policy: said["job.accepted job/"+job].Policy},
		"job.cancelled job/" + job:                    {Owner: f.owner, By: "owner"},
		"policy.refused account/" + f.owner.String():  {Owner: f.owner, Policy: said["job.accepted job/"+job].Policy, Rule: "prompt_word"},
	} {
		got := api.AuditEvent{Owner: said[what].Owner, By: said[what].By, Policy: said[what].Policy, Rule: said[what].Rule}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	if diff := cmp.Diff(list, exported(t, auditor, "/audit")); diff != "" {
		t.Error(diff)
	}
	body := string(auditor.Do("GET", "/audit", "").Body)
	for _, secret := range []string{"nature of light", "violence", "somebody", "the-auditor"} {
		if strings.Contains(body, secret) {
			t.Errorf("the audit has %q", secret)
		}
	}
}

// TestAuditIsFiltered reads the log with each filter, in pages and as an export.
func TestAuditIsFiltered(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, auditor := f.auditor()
	f.Submit(prompt)
	f.sequence()
	all := exported(t, auditor, "/audit")
	middle := all[len(all)/2]
	at := middle.At.Format(time.RFC3339Nano)
	for query, chosen := range map[string]func(api.AuditEvent) bool{
		"type=account.signed_in":                           func(e api.AuditEvent) bool { return e.Type == "account.signed_in" },
		"type=no.such_type":                                func(api.AuditEvent) bool { return false },
		"owner=" + f.owner.String():                        func(e api.AuditEvent) bool { return e.Owner == f.owner },
		"owner=" + uuid.Nil.String():                       func(e api.AuditEvent) bool { return e.Owner == uuid.Nil },
		"owner=" + uuid.NewString():                        func(api.AuditEvent) bool { return false },
		"owner=" + f.owner.String() + "&type=job.accepted": func(e api.AuditEvent) bool { return e.Type == "job.accepted" },
		"since=" + at:                                      func(e api.AuditEvent) bool { return !e.At.Before(middle.At) },
		"until=" + at:                                      func(e api.AuditEvent) bool { return e.At.Before(middle.At) },
		"since=0000-01-01T00:00:00Z":                       func(api.AuditEvent) bool { return true },
		"until=0000-01-01T00:00:00Z":                       func(api.AuditEvent) bool { return false },
		"since=9999-12-31T23:59:59Z":                       func(api.AuditEvent) bool { return false },
		fmt.Sprintf("after=%d", middle.Index):              func(e api.AuditEvent) bool { return e.Index > middle.Index },
		"after=9007199254740991":                           func(api.AuditEvent) bool { return false },
	} {
		var want []api.AuditEvent
		for _, e := range all {
			if chosen(e) {
				want = append(want, e)
			}
		}
		if diff := cmp.Diff(want, exported(t, auditor, "/audit?"+query)); diff != "" {
			t.Errorf("%s: export: %s", query, diff)
		}
		for _, limit := range []int{1, 2, 1000} {
			list, pages := auditPages(t, auditor, fmt.Sprintf("/audit?%s&limit=%d", query, limit))
			if diff := cmp.Diff(want, append([]api.AuditEvent(nil), list...)); diff != "" || pages > len(want)/limit+1 {
				t.Errorf("%s: %d pages of %d: %s", query, pages, limit, diff)
			}
		}
	}
	for _, query := range []string{"type=Job", "type=", "type=" + strings.Repeat("a", 40) + "." + strings.Repeat("b", 40), "owner=x", "since=yesterday", "until=2026", "limit=0", "limit=1001", "after=-2"} {
		p := f.As(auditor.Access).Do("GET", "/audit?"+query, "").Refused(t, 422, "invalid_request")
		if strings.Contains(p.Detail, "2006") {
			t.Errorf("%s: %s", query, p.Detail)
		}
	}
}

// fill adds events to the log that belong to others.
func (f *fixture) fill(events int) {
	f.T.Helper()
	_, err := f.db.Owner.Exec(f.T.Context(), `
		insert into events (stream, version, owner, type, at, schema, payload)
		select 'account/' || gen_random_uuid(), 1, gen_random_uuid(), 'test.event', now(), 2, convert_to(n::text, 'UTF8') from generate_series(1, $1::int) as n`, events)
	if err != nil {
		f.T.Fatal(err)
	}
	for end := int64(0); end < int64(events); {
		f.sequence()
		if end, err = f.store.LogEnd(f.T.Context()); err != nil {
			f.T.Fatal(err)
		}
	}
}

// TestAuditAnswersInParts looks for rare events in a log of many. A page must come before the
// whole log was read. An export must have all.
func TestAuditAnswersInParts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, auditor := f.auditor()
	f.fill(21_000)
	f.Submit(prompt)
	f.sequence()
	list, pages := auditPages(t, auditor, "/audit?type=job.accepted")
	if len(list) != 1 || list[0].Index < 21_000 || pages != 2 {
		t.Errorf("%d pages with %+v", pages, list)
	}
	all := exported(t, auditor, "/audit")
	for i, e := range all {
		if e.Index != int64(i) || e.Damaged != (e.Type == "test.event") {
			t.Fatalf("%d: %+v", i, e)
		}
	}
	if end, err := f.store.LogEnd(t.Context()); err != nil || int64(len(all)) != end+1 {
		t.Errorf("%d events of %d, %v", len(all), end+1, err)
	}
}

// revoking is the answer to an export. At the first write, the caller loses its role.
type revoking struct {
	*httptest.ResponseRecorder
	revoke func()
}

func (r *revoking) Write(b []byte) (int, error) {
	if r.revoke != nil {
		r.revoke()
		r.revoke = nil
	}
	return r.ResponseRecorder.Write(b)
}

func (*revoking) SetWriteDeadline(time.Time) error { return nil }

// TestExportEndsWithTheRole takes the role away during an export. The connection must break.
func TestExportEndsWithTheRole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, auditor := f.auditor()
	f.fill(2 * events.AuditStep)
	handler, err := api.New(f.api)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/audit", nil)
	r.Header.Set("Authorization", "Bearer "+auditor.Access)
	r.Header.Set("Accept", "application/x-ndjson")
	w := &revoking{httptest.NewRecorder(), func() {
		if _, err := f.accounts().SetRole(t.Context(), id, auth.User); err != nil {
			t.Error(err)
		}
	}}
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("the export ends with %v", p)
		}
		if lines := bytes.Count(w.Body.Bytes(), []byte("\n")); lines != events.AuditStep {
			t.Errorf("%d lines: %.300s", lines, w.Body)
		}
	}()
	handler.ServeHTTP(w, r)
}
