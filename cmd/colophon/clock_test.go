package main

import (
	"bytes"
	"log/slog"
	"slices"
	"testing"
	"time"

	"colophon/events"
	"colophon/internal/database"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

func TestReadinessWarnsOfAWrongClock(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	b := &base{Database: &database.Database{Pool: db.App}, store: events.NewStore(db.App, v, slog.New(slog.DiscardHandler))}
	for ahead, want := range map[time.Duration]bool{0: false, time.Second: false, 10 * time.Second: true, -10 * time.Second: true} {
		db.ShiftClock(t, -ahead)
		if err := b.store.Clock().Sync(t.Context(), db.App); err != nil {
			t.Fatal(err)
		}
		if warnings, err := b.ready(t.Context()); err != nil || slices.Contains(warnings, wrongClock) != want {
			t.Errorf("%v ahead: warnings %q, %v", ahead, warnings, err)
		}
	}
}
