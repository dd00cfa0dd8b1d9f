package main

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"colophon/internal/datadir"
)

// private runs a command without environment variables, so that it uses a private Postgres.
func private(t *testing.T, args ...string) error {
	t.Helper()
	var out bytes.Buffer
	return run(t.Context(), args, func(string) (string, bool) { return "", false }, strings.NewReader(""), &out, &out)
}

func TestSecondUpIsRefusedAndToldWhoHasTheDirectory(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	release, err := datadir.Hold(data, "up --listen 127.0.0.1:8000")
	if err != nil {
		t.Fatal(err)
	}
	err = private(t, "up", "--data", data, "--listen", "127.0.0.1:0")
	if !errors.Is(err, datadir.ErrHeld) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) || !strings.Contains(err.Error(), "127.0.0.1:8000") {
		t.Errorf("a second up: %v", err)
	}
	if _, err := os.Stat(filepath.Join(data, "postgres")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the second has begun a cluster: %v", err)
	}
	release()
	if release, err = datadir.Hold(data, "up"); err != nil {
		t.Errorf("after the first has ended: %v", err)
	} else {
		release()
	}
}

func TestAddressesAreBoundBeforePostgresIsMade(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		flag, address string
		usage         bool
	}{
		{"--listen", taken.Addr().String(), false},
		{"--listen", "localhost", true},
		{"--listen", "127.0.0.1:99999", true},
		{"--listen", "127.0.0.1:no-such-port", true},
		{"--admin-listen", taken.Addr().String(), false},
	} {
		data := t.TempDir()
		err := private(t, "up", "--data", data, "--listen", "127.0.0.1:0", c.flag, c.address)
		if _, usage := errors.AsType[*usageError](err); err == nil || usage != c.usage || !strings.Contains(err.Error(), c.flag) {
			t.Errorf("%s %s: %v", c.flag, c.address, err)
		}
		if _, err := os.Stat(filepath.Join(data, "postgres")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s %s: a cluster was begun: %v", c.flag, c.address, err)
		}
	}
}
