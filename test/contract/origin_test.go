package contract

import (
	"math/rand/v2"
	"net/http"
	"testing"
)

// everything counts the rows that requests can add, and says which have changed.
func (s *service) everything() (state string) {
	s.t.Helper()
	err := s.db.Owner.QueryRow(s.t.Context(), `
		select concat_ws(' ',
			(select count(*) from events), (select count(*) from sessions), (select count(*) from refresh_tokens),
			(select count(*) from idempotency_keys), (select count(*) from tickets), (select count(*) from river.river_job),
			(select md5(string_agg(a::text, '' order by id)) from accounts a))`).Scan(&state)
	if err != nil {
		s.t.Fatal(err)
	}
	return state
}

// TestOtherOriginsChangeNothing sends every operation as a page of another origin
// would have a browser send it. What is read by it changes nothing, and what may
// change something is refused before anything is looked at, whether there is an
// access token with it or not: POST /users, /token and /revoke want none.
//
// security: ASVS 3.5.1, ASVS 3.5.2, ASVS 3.5.3
func TestOtherOriginsChangeNothing(t *testing.T) {
	s := newService(t)
	doc := s.describe()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 4)), doc: doc, who: s.join("somebody")}
	s.engine.hold() // nothing goes on by itself
	defer s.engine.release()
	g.own = []string{s.as(g.who).Submit(`{"prompt":"light"}`)}
	s.jobsOf(g.who, 1, "running")
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
				a := s.serve(r.http())
				if refused := a.Status == 403 && a.Code() == "cross_origin"; refused != (op.method != "GET") {
					t.Errorf("%s from %v: %d %s", op, from, a.Status, a.Body)
				}
				if after := s.everything(); after != before {
					t.Errorf("%s from %v has changed something: %s became %s", op, from, before, after)
				}
			}
		}
	}
}
