package database

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/migrations"
)

// PowerfulLogins returns a fault for each login of the database that can change the log of
// events. Each fault begins with the flag of the login's URL.
func (d *Database) PowerfulLogins(ctx context.Context) (faults []string, err error) {
	for _, pool := range []struct {
		flag string
		*pgxpool.Pool
	}{{"--database-url", d.Pool}, {"--database-direct-url", d.Direct}} {
		var login migrations.Login
		err := Retry(ctx, d.Log, func() (err error) { login, err = migrations.LoginOf(ctx, pool.Pool); return err })
		if err != nil {
			return nil, err
		}
		if login.Power != "" {
			faults = append(faults, fmt.Sprintf("%s: the login %s %s, so a stolen connection can rewrite the log of events: "+
				"migrate with this URL, and give the service a login that is only a member of %s", pool.flag, login.Name, login.Power, migrations.AppRole))
		}
		if d.Pool == d.Direct {
			break
		}
	}
	return faults, nil
}
