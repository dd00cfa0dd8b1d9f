package pgtest

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestWithDatabaseChangesOnlyTheDatabase(t *testing.T) {
	for _, in := range []string{
		"postgres://u:p%2Fw@db.example:6543/old?sslmode=disable",
		"postgres://u:p%2Fw@db.example:6543/?dbname=old&sslmode=disable",
		"postgres://u:p%2Fw@db.example:6543?sslmode=disable",
		"host=db.example port=6543 user=u password=p/w dbname=old sslmode=disable",
		"host=db.example port=6543 user=u password=p/w sslmode=disable",
	} {
		cfg, err := pgx.ParseConfig(withDatabase(in, "new"))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if cfg.Database != "new" || cfg.Host != "db.example" || cfg.Port != 6543 || cfg.User != "u" || cfg.Password != "p/w" {
			t.Errorf("%s: %s on %s:%d as %s", in, cfg.Database, cfg.Host, cfg.Port, cfg.User)
		}
	}
}

func TestWithReplacesASetting(t *testing.T) {
	for _, in := range []string{
		"postgres://u:p%2Fw@db.example/d",
		"postgres://u:p%2Fw@db.example/d?application_name=old",
		"host=db.example user=u password=p/w dbname=d application_name=old",
	} {
		cfg, err := pgx.ParseConfig(With(in, "application_name", "new"))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if cfg.RuntimeParams["application_name"] != "new" || cfg.Host != "db.example" || cfg.Password != "p/w" || cfg.Database != "d" {
			t.Errorf("%s: %v on %s", in, cfg.RuntimeParams, cfg.Host)
		}
	}
}
