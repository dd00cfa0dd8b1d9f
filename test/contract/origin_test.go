package contract

import (
	"math/rand/v2"
	"net/http"
	"testing"
)

// everything returns a text that differs after any change that a request can make:
// counts of rows, and a digest of the accounts.
func (s *service) everything() (state string) {
	s.t.Helper()
	s.query([]any{&state}, `
		select concat_ws(' ',
			(select count(*) from events), (select count(*) from sessions), (select count(*) from refresh_tokens),
			(select count(*) from idempotency_keys), (select count(*) from tickets), (select count(*) from river.river_job),
			(select md5(string_agg(a::text, '' order by id)) from accounts a))`)
	return state
}

// TestOtherOriginsChangeNothing sends every operation as a browser does for a page
// of another origin. A GET changes nothing. Any other method is refused before the
// service looks at anything else, with and without an access token: POST /users,
// /token and /revoke need none.
//
// security: ASVS 3.5.1, ASVS 3.5.2, ASVS 3.5.3
func TestOtherOriginsChangeNothing(t *testing.T) {
	t.Parallel()
	s := newService(t)
	doc := s.describe()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 4)), doc: doc, who: s.join("caller")}
	g.own = []string{s.running(g.who)} // nothing changes by itself now
	for _, op := range doc.operations {
		for _, guest := range []bool{false, true} {
			for _, from := range []http.Header{
				{"Origin": {"https://evil.example"}}, {"Origin": {"null"}}, {"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}},
			} {
				r := g.compose(op)
				r.header = nil
				if !guest {
					r.header = [][2]string{{"Authorization", "Bearer " + g.who.access}}
				}
				for name, values := range from {
					r.header = append(r.header, [2]string{name, values[0]})
				}
				before := s.everything()
				a := s.serve(r)
				if refused := a.Status == 403 && a.Code() == "cross_origin"; refused != (op.method != "GET") {
					t.Errorf("%s from %v: %d %s", op, from, a.Status, a.Body)
				}
				if after := s.everything(); after != before {
					t.Errorf("%s from %v changed the database: %s became %s", op, from, before, after)
				}
			}
		}
	}
}
