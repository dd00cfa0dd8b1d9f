package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestWrongDatabaseSettingsEndWithStatus2 starts each kind of process with a malformed URL, and
// with a directory that has no programs of Postgres. The error must name the flag. It must not
// contain any part of the URL's password.
func TestWrongDatabaseSettingsEndWithStatus2(t *testing.T) {
	t.Parallel()
	const url = "postgres://u:qF9x2mZ7@127.0.0.1:1/d?connect_timeout=1"
	for _, process := range []string{"worker", "api --listen 127.0.0.1:0", "up --listen 127.0.0.1:0", "up --production", "migrate", "user list", "history rebuild"} {
		for _, wrong := range []struct{ flag, flags string }{
			{"--database-url", "--database-url postgres://u:qF9x2mZ7@h:port/d"},
			{"--database-url", "--database-url postgres://u:tW4k/qF9x2mZ7@h/d"},
			{"--database-url", "--database-url postgres://u:%zztW4kqF9x2mZ7@h/d"},
			{"--database-url", "--database-url postgres://u:qF9x2mZ7@h/d?sslmode=tW4k"},
			{"--database-url", "--database-url qF9x2mZ7"},
			{"--database-direct-url", "--database-url " + url + " --database-direct-url postgres://u:qF9x2mZ7@h:port/d"},
			{"--pg-bin", "--pg-bin " + t.TempDir()},
			{"--pg-bin", "--pg-bin /nowhere"},
		} {
			if process == "up --production" && wrong.flag == "--pg-bin" {
				continue // production refuses a private Postgres first
			}
			args := append(strings.Fields(process), "--data", filepath.Join(t.TempDir(), "data"))
			_, log, err := command(t, "", append(args, strings.Fields(wrong.flags)...)...)
			if err == nil || status(err) != 2 || !strings.Contains(err.Error(), wrong.flag+": ") {
				t.Errorf("%s %s: %v, want status 2", process, wrong.flags, err)
			}
			if err != nil && strings.Contains(err.Error()+log, "qF9x2mZ7") {
				t.Errorf("%s %s: the password in %v, %s", process, wrong.flags, err, log)
			}
		}
	}
}
