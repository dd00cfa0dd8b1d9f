package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/httpd/httpdtest"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

// TestProductionRefusesInsecureSettings checks the settings of each command, with one
// insecure setting and with all of them. The error must name exactly the insecure
// settings.
//
// security: API8:2023, ASVS 6.3.2, ASVS 12.3.1, ASVS 13.2.3
func TestProductionRefusesInsecureSettings(t *testing.T) {
	t.Parallel()
	encode := base64.StdEncoding.EncodeToString
	random := make([]byte, 32)
	_, _ = rand.Read(random)
	sequence := make([]byte, 32)
	for i := range sequence {
		sequence[i] = byte(i)
	}
	a := httpdtest.NewAuthority(t)
	a.Issue("cert.pem", "key.pem")
	keyFile := func(key []byte) string {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(encode(key)), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	pinned := "sha256:" + strings.Repeat("0a", 32)
	good := map[string]string{
		"COLOPHON_PRODUCTION": "true",
		"COLOPHON_MASTER_KEY": encode(random),
		"DATABASE_URL":        "postgres://colophon:qF9x2mZ7tW4k@127.0.0.1:1/colophon?connect_timeout=1",
		"COLOPHON_DATA":       t.TempDir(),
	}
	const serving, working = "api up", "up worker"
	log := slog.New(slog.DiscardHandler)
	for name, k := range map[string]struct {
		env      map[string]string
		commands string
		refused  string // the settings that the error must name
	}{
		"all secure":                     {nil, "api up worker", ""},
		"not in production":              {map[string]string{"COLOPHON_PRODUCTION": "false", "COLOPHON_NO_RATE_LIMITS": "true", "COLOPHON_MASTER_KEY": ""}, "api up", ""},
		"a key beside the data":          {map[string]string{"COLOPHON_MASTER_KEY": ""}, "api up worker", "--master-key"},
		"a key in a file":                {map[string]string{"COLOPHON_MASTER_KEY": "", "COLOPHON_MASTER_KEY_FILE": keyFile(random)}, "api up worker", ""},
		"a key of zeros in a file":       {map[string]string{"COLOPHON_MASTER_KEY": "", "COLOPHON_MASTER_KEY_FILE": keyFile(make([]byte, 32))}, "api up worker", "--master-key-file"},
		"a file that does not exist":     {map[string]string{"COLOPHON_MASTER_KEY": "", "COLOPHON_MASTER_KEY_FILE": "/nowhere/key"}, "api up worker", "--master-key-file"},
		"a key and a file":               {map[string]string{"COLOPHON_MASTER_KEY_FILE": keyFile(random)}, "api up worker", "--master-key-file"},
		"an unencrypted direct URL":      {map[string]string{"COLOPHON_DATABASE_DIRECT_URL": "postgres://u:qF9x2mZ7tW4k@192.0.2.1/c?sslmode=disable"}, "api up worker", "--database-direct-url"},
		"a key of zeros":                 {map[string]string{"COLOPHON_MASTER_KEY": encode(make([]byte, 32))}, "api up worker", "--master-key"},
		"a key of text":                  {map[string]string{"COLOPHON_MASTER_KEY": encode([]byte("a key that a person thought up!!"))}, "api up worker", "--master-key"},
		"a key of consecutive bytes":     {map[string]string{"COLOPHON_MASTER_KEY": encode(sequence)}, "api up worker", "--master-key"},
		"a key that repeats":             {map[string]string{"COLOPHON_MASTER_KEY": encode(bytes.Repeat([]byte{0xde, 0xad, 0xbe, 0xef}, 8))}, "api up worker", "--master-key"},
		"a private Postgres":             {map[string]string{"DATABASE_URL": ""}, "api up worker", "--database-url"},
		"sslmode=disable":                {map[string]string{"DATABASE_URL": "postgres://u:qF9x2mZ7tW4k@192.0.2.1/c?sslmode=disable"}, "api up worker", "--database-url"},
		"the password of an example":     {map[string]string{"DATABASE_URL": "postgres://colophon:colophon@127.0.0.1:1/c"}, "api up worker", "--database-url"},
		"a short password":               {map[string]string{"DATABASE_URL": "postgres://u:qF9x2mZ7tW4@127.0.0.1:1/c"}, "api up worker", "--database-url"},
		"weights that are not pinned":    {map[string]string{"COLOPHON_MODEL": "./mine"}, working, "--model"},
		"pinned weights":                 {map[string]string{"COLOPHON_MODEL": "./mine", "COLOPHON_WEIGHTS_DIGEST": pinned}, "api up worker", ""},
		"every origin":                   {map[string]string{"COLOPHON_CORS_ORIGINS": "*"}, serving, "--cors-origins"},
		"one origin":                     {map[string]string{"COLOPHON_CORS_ORIGINS": "https://a.example"}, serving, ""},
		"no limits":                      {map[string]string{"COLOPHON_NO_RATE_LIMITS": "true"}, serving, "--no-rate-limits"},
		"plain HTTP":                     {map[string]string{"COLOPHON_LISTEN": "0.0.0.0:0"}, serving, "--listen"},
		"plain HTTP without a host name": {map[string]string{"COLOPHON_LISTEN": ":0"}, serving, "--listen"},
		"plain HTTP behind a proxy":      {map[string]string{"COLOPHON_LISTEN": "0.0.0.0:0", "COLOPHON_TRUSTED_PROXIES": "10.0.0.0/8"}, serving, ""},
		"TLS":                            {map[string]string{"COLOPHON_LISTEN": ":0", "COLOPHON_TLS_CERT": a.File("cert.pem"), "COLOPHON_TLS_KEY": a.File("key.pem")}, serving, ""},
		"ACME":                           {map[string]string{"COLOPHON_LISTEN": ":0", "COLOPHON_ACME_DOMAIN": "a.example"}, serving, ""},
		"a reachable admin listener":     {map[string]string{"COLOPHON_ADMIN_LISTEN": ":0", "COLOPHON_ADMIN_REMOTE": "true"}, "api up worker", "--admin-listen"},
		"an admin listener on loopback":  {map[string]string{"COLOPHON_ADMIN_LISTEN": "127.0.0.1:0"}, "api up worker", ""},
		"webhooks over plain HTTP":       {map[string]string{"COLOPHON_WEBHOOK_HTTP": "true"}, "api up worker", "--webhook-http"},
		"webhooks to private networks":   {map[string]string{"COLOPHON_WEBHOOK_PRIVATE": "true"}, "api up worker", "--webhook-private"},
		"no webhooks at all":             {map[string]string{"COLOPHON_WEBHOOK_SLOTS": "0"}, "up worker", ""},
		"everything": {map[string]string{
			"COLOPHON_MASTER_KEY": "", "DATABASE_URL": "", "COLOPHON_MODEL": "./mine", "COLOPHON_CORS_ORIGINS": "*", "COLOPHON_NO_RATE_LIMITS": "true",
			"COLOPHON_LISTEN": ":0", "COLOPHON_ADMIN_LISTEN": ":0", "COLOPHON_ADMIN_REMOTE": "true", "COLOPHON_WEBHOOK_HTTP": "true", "COLOPHON_WEBHOOK_PRIVATE": "true",
		}, "up", "--master-key --database-url --model --cors-origins --no-rate-limits --listen --webhook-http --webhook-private --admin-listen"},
	} {
		for command := range strings.FieldsSeq(k.commands) {
			env := maps.Clone(good)
			maps.Copy(env, k.env)
			var faults []string
			check := func(c *cli) error {
				switch command {
				case "up":
					return c.Up.check(c.Up.roles(), nil, log)
				case "api":
					return c.API.check(c.API.roles(), nil, log)
				}
				return c.Worker.check(c.Worker.roles(), nil, log)
			}
			c, err := parsed(env, command)
			if err != nil {
				t.Fatalf("%s, %s: %v", name, command, err)
			}
			err = check(c)
			if _, usage := errors.AsType[*usageError](err); err != nil && !usage {
				t.Errorf("%s, %s: %v would not end with status 2", name, command, err)
			}
			if err != nil {
				for line := range strings.Lines(err.Error()) {
					if setting, _, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && strings.HasPrefix(setting, "--") {
						faults = append(faults, setting)
					}
				}
			}
			if !slices.Equal(faults, strings.Fields(k.refused)) {
				t.Errorf("%s, %s: refused for %v, want %v: %v", name, command, faults, k.refused, err)
			}
			if err != nil && (strings.Contains(err.Error(), "qF9x2mZ7tW4k") || strings.Contains(err.Error(), env["COLOPHON_MASTER_KEY"]) && env["COLOPHON_MASTER_KEY"] != "") {
				t.Errorf("%s: a secret in %v", name, err)
			}
		}
	}
	// The command itself must refuse to start.
	var out bytes.Buffer
	err := run(t.Context(), []string{"up", "--production", "--no-rate-limits", "--data", t.TempDir()}, func(string) (string, bool) { return "", false }, strings.NewReader(""), &out, &out)
	if _, usage := errors.AsType[*usageError](err); !usage || !strings.Contains(err.Error(), "--no-rate-limits: ") || !strings.Contains(err.Error(), "--master-key: ") || out.Len() > 0 {
		t.Errorf("%v, %s", err, out.String())
	}
}

// TestRefusedProcessClaimsNoDatabase starts each kind of process on an empty database, with
// a login that --production refuses. No process may make its key the database's, so a later
// process with another key must start.
func TestRefusedProcessClaimsNoDatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	key := func() string {
		random := make([]byte, vault.MasterKeySize)
		_, _ = rand.Read(random)
		return base64.StdEncoding.EncodeToString(random)
	}
	for _, process := range []string{"worker", "api --listen 127.0.0.1:0", "up --listen 127.0.0.1:0"} {
		args := append(strings.Fields(process), "--production", "--database-url", db.URL, "--data", t.TempDir(), "--master-key", key())
		_, _, err := command(t, "", args...)
		if _, usage := errors.AsType[*usageError](err); !usage || !strings.Contains(err.Error(), "--database-url: the login") {
			t.Errorf("%s: %v, want a refused login", process, err)
		}
		if unused, err := vault.IsUnused(t.Context(), db.App); err != nil || !unused {
			t.Errorf("%s: unused %v, %v, want a database that no key has claimed", process, unused, err)
		}
	}
	if _, _, err := command(t, "", "user", "list", "--database-url", db.URL, "--data", t.TempDir(), "--master-key", key()); err != nil {
		t.Errorf("another key after the refused ones: %v", err)
	}
}

// TestRefusedProcessMigratesNothing starts the service on an empty database, with the login of
// its owner, which --production refuses.
func TestRefusedProcessMigratesNothing(t *testing.T) {
	t.Parallel()
	pgtest.New(t, migrations.Up) // makes the role of the service in the cluster
	db := pgtest.New(t, func(context.Context, *pgxpool.Pool) error { return nil })
	key := make([]byte, vault.MasterKeySize)
	_, _ = rand.Read(key)
	_, _, err := command(t, "", "up", "--listen", "127.0.0.1:0", "--production", "--database-url", db.URL, "--data", t.TempDir(), "--master-key", base64.StdEncoding.EncodeToString(key))
	if _, usage := errors.AsType[*usageError](err); !usage || !strings.Contains(err.Error(), "--database-url: the login") {
		t.Errorf("%v, want a refused login", err)
	}
	var relations int
	err = db.Owner.QueryRow(t.Context(), `select count(*) from pg_class where relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'pg_toast'::regnamespace)`).Scan(&relations)
	if err != nil || relations != 0 {
		t.Errorf("the refused process has made %d tables and indexes, %v", relations, err)
	}
}

// TestReachableInsecureSettingsAreLogged checks insecure settings without --production.
// There must be one warning for each insecure setting if other machines can reach the
// address, and no warning otherwise.
func TestReachableInsecureSettingsAreLogged(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]int{"127.0.0.1:0": 0, "localhost:0": 0, "[::1]:0": 0, "0.0.0.0:0": 5, ":0": 5, "192.0.2.1:80": 5} {
		for _, command := range []string{"up", "api"} {
			c, err := parsed(map[string]string{"COLOPHON_LISTEN": listen, "COLOPHON_NO_RATE_LIMITS": "true", "COLOPHON_CORS_ORIGINS": "*"}, command)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			log := slog.New(slog.NewTextHandler(&out, nil))
			if command == "up" {
				err = c.Up.check(c.Up.roles(), nil, log)
			} else {
				err = c.API.check(c.API.roles(), nil, log)
			}
			if got := strings.Count(out.String(), "level=WARN"); err != nil || got != want {
				t.Errorf("%s on %s: %d warnings, want %d, and %v:\n%s", command, listen, got, want, err, &out)
			}
		}
	}
}

// parsed returns the flags of a command whose environment has only the given variables.
func parsed(env map[string]string, command string) (*cli, error) {
	var c cli
	parser, err := kong.New(&c, kong.Resolvers(environment(func(name string) (string, bool) { v, ok := env[name]; return v, ok })))
	if err != nil {
		return nil, err
	}
	_, err = parser.Parse([]string{command})
	return &c, err
}
