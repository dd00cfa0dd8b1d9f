package limit

import (
	"testing"
	"time"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

func TestStoreWorksInEveryQueryMode(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	for _, mode := range pgtest.QueryModes() {
		pool, err := pg.Connect(t.Context(), pgtest.With(db.URL, "default_query_exec_mode", mode), migrations.AppRole)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		s := NewStore(pool, mode, Rate{2, time.Hour})
		if err := s.Burst(t.Context(), "new", 3); err != nil {
			t.Errorf("%s: burst of an unknown key: %v", mode, err)
		}
		if err := s.Burst(t.Context(), "new", 3); err != nil {
			t.Errorf("%s: burst: %v", mode, err)
		}
		if err := s.Set(t.Context(), "set", 7, time.Minute); err != nil {
			t.Errorf("%s: set: %v", mode, err)
		}
		for key, want := range map[string][2]uint64{"new": {5, 7}, "set": {7, 6}, "other": {2, 1}} {
			tokens, left, _, ok, err := s.Take(t.Context(), key)
			if got := [2]uint64{tokens, left}; got != want || !ok || err != nil {
				t.Errorf("%s: take of %s: %v, %v, %v; want %v", mode, key, got, ok, err, want)
			}
			tokens, left, err = s.Get(t.Context(), key)
			if got := [2]uint64{tokens, left}; got != want || err != nil {
				t.Errorf("%s: get of %s: %v, %v; want %v", mode, key, got, err, want)
			}
		}
		if _, err := removeOld(t.Context(), pool); err != nil {
			t.Errorf("%s: remove old rows: %v", mode, err)
		}
	}
}
