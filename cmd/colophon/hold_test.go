package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// private runs a command with a private Postgres, without any environment.
func private(t *testing.T, args ...string) error {
	t.Helper()
	var out bytes.Buffer
	return run(t.Context(), args, func(string) (string, bool) { return "", false }, strings.NewReader(""), &out, &out)
}

func TestSecondUpIsRefusedAndToldWhoHasTheDirectory(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	release, err := holdData(data, "up --listen 127.0.0.1:8000")
	if err != nil {
		t.Fatal(err)
	}
	err = private(t, "up", "--data", data, "--listen", "127.0.0.1:0")
	if !errors.Is(err, errHeld) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) || !strings.Contains(err.Error(), "127.0.0.1:8000") {
		t.Errorf("a second up: %v", err)
	}
	if _, err := os.Stat(filepath.Join(data, "postgres")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the second has begun a cluster: %v", err)
	}
	release()
	if release, err = holdData(data, "up"); err != nil {
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

// TestSilentDatabaseIsReported dials a database that never answers. There must be a
// notice within three seconds, and then one every ten seconds.
func TestSilentDatabaseIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		log := slog.New(slog.NewTextHandler(&said, nil))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		silent := errors.New("no answer")
		ended := make(chan error, 1)
		go func() {
			_, err := connect(ctx, log, func(ctx context.Context) (*pgxpool.Pool, error) { <-ctx.Done(); return nil, silent })
			ended <- err
		}()
		for notices := range 6 {
			if notices == 0 {
				time.Sleep(3 * time.Second)
			} else {
				time.Sleep(10 * time.Second)
			}
			synctest.Wait()
			if got := strings.Count(said.String(), "database does not answer"); got != notices+1 {
				t.Errorf("%d notices, want %d:\n%s", got, notices+1, &said)
			}
		}
		if err := <-ended; !errors.Is(err, silent) {
			t.Error(err)
		}
		// An error of the server is final.
		refused := errors.New("wrong password")
		_, err := connect(t.Context(), log, func(context.Context) (*pgxpool.Pool, error) { return nil, refused })
		if !errors.Is(err, refused) {
			t.Error(err)
		}
	})
}
