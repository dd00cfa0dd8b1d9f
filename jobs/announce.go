package jobs

import (
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"colophon/events"
	"colophon/migrations"
)

// newEntry is the announcement of a new queue entry. River's idle workers listen for it. A
// worker that misses it finds the entry by polling.
var newEntry = events.Announcement{
	Channel: migrations.RiverSchema + ".river_insert",
	Payload: `{"queue":"` + river.QueueDefault + `"}`,
}

// quietDriver keeps River from announcing an insert in the transaction of the insert. A
// commit with a pending NOTIFY locks the whole database until it is on disk, so such
// commits run one at a time. A client with this driver can still listen.
type quietDriver struct{ *riverpgxv5.Driver }

func newQuietDriver(pool *pgxpool.Pool) quietDriver { return quietDriver{riverpgxv5.New(pool)} }

// SupportsListenNotify returns false, which River takes as: do not notify.
func (quietDriver) SupportsListenNotify() bool { return false }

// newInserter returns a client that inserts queue entries with the database's time. After
// the commit of an insert, the caller must announce newEntry.
func newInserter(pool *pgxpool.Pool, log *slog.Logger) (*river.Client[pgx.Tx], error) {
	client, err := river.NewClient(newQuietDriver(pool), &river.Config{
		Schema: migrations.RiverSchema,
		Logger: log,
		Test:   river.TestConfig{Time: insertClock{}},
	})
	if err != nil {
		return nil, fmt.Errorf("create the queue client: %w", err)
	}
	return client, nil
}
