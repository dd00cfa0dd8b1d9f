package contract

import (
	"math/rand/v2"
	"net/http"
	"testing"
)

// databaseState returns a text that differs after any change that a request can make. The
// text has row counts and a digest of the accounts.
func (s *service) databaseState() (state string) {
	s.t.Helper()
	s.query([]any{&state}, `
		select concat_ws(' ',
			(select count(*) from events), (select count(*) from sessions), (select count(*) from refresh_tokens),
			(select count(*) from idempotency_keys), (select count(*) from tickets), (select count(*) from river.river_job),
			(select md5(string_agg(a::text, '' order by id)) from accounts a))`)
	return state
}

// TestOtherOriginsChangeNothing requests every operation as a browser does for a page of
// another origin. A GET must change nothing. The service must refuse any other method
// before it checks anything else. It must do so with and without an access token, because
// some operations need no token.
//
// security: ASVS 3.5.1, ASVS 3.5.2, ASVS 3.5.3
func TestOtherOriginsChangeNothing(t *testing.T) {
	t.Parallel()
	s := newService(t)
	doc := s.fetchDocument()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 4)), doc: doc, caller: s.signUp("caller")}
	g.own = []string{s.runningJob(g.caller)} // runningJob kills the worker, so only requests change the database
	for _, op := range doc.operations {
		for _, signedIn := range []bool{true, false} {
			for _, from := range []http.Header{
				{"Origin": {"https://evil.example"}}, {"Origin": {"null"}}, {"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}},
			} {
				r := g.compose(op)
				r.header = nil
				if signedIn {
					r.header = [][2]string{{"Authorization", "Bearer " + g.caller.access}}
				}
				for name, values := range from {
					r.header = append(r.header, [2]string{name, values[0]})
				}
				before := s.databaseState()
				a := s.roundTrip(r)
				if refused := a.Status == 403 && a.Code() == "cross_origin"; refused != (op.method != "GET") {
					t.Errorf("%s from %v: %d %s", op, from, a.Status, a.Body)
				}
				if after := s.databaseState(); after != before {
					t.Errorf("%s from %v changed the database: %s became %s", op, from, before, after)
				}
			}
		}
	}
}
