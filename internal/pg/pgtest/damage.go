package pgtest

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

// Damage runs a statement as the owner, without triggers and foreign keys. It does what a
// faulty disk or a person with the owner's rights can do.
func (db *DB) Damage(t testing.TB, sql string, args ...any) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), db.Owner, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `set local session_replication_role = replica`); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), sql, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
