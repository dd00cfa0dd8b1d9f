package main

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"colophon/internal/database"
	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
)

// TestUnsafeDatabaseIsRefusedInProduction checks a database that may lose accepted jobs
// in a crash. With --production the check must fail. Without it, the check must log a warning.
func TestUnsafeDatabaseIsRefusedInProduction(t *testing.T) {
	t.Parallel()
	pool, err := pg.Connect(t.Context(), pgtest.Empty(t), "pg_monitor")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	unsafe, err := pg.UnsafeSettings(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	if len(unsafe) == 0 {
		t.Skip("the server of DATABASE_URL is safe")
	}
	var log apitest.Log
	logger := slog.New(slog.NewTextHandler(&log, nil))
	db := &database.Database{Pool: pool, Log: logger}
	err = checkDurability(t.Context(), db, true)
	if _, ok := errors.AsType[*usageError](err); !ok {
		t.Errorf("with --production: %v, want a usageError", err)
	}
	if err := checkDurability(t.Context(), db, false); err != nil {
		t.Error(err)
	}
	for _, setting := range unsafe {
		if err == nil || !strings.Contains(err.Error(), setting) || !strings.Contains(log.String(), setting) {
			t.Errorf("%s: not in the error %v or not in the log %s", setting, err, log.String())
		}
	}
}
