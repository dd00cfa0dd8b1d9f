package pg

import (
	"strings"
	"testing"
)

// TestWeaknessesAreNamed passes database URLs to Weaknesses. Weaknesses must report an
// unencrypted connection to another machine, and a missing or guessable password.
//
// security: ASVS 12.3.1, ASVS 13.2.3
func TestWeaknessesAreNamed(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	t.Setenv("PGPASSWORD", "")
	t.Setenv("PGPASSFILE", t.TempDir()) // a directory, so that no password file is read
	const good = "qF9x2mZ7tW4k"
	for url, want := range map[string]string{
		"postgres://u:" + good + "@db.example/c?sslmode=verify-full":                  "",
		"postgres://u:" + good + "@db.example/c?sslmode=require":                      "",
		"postgres://u:" + good + "@db.example/c?sslmode=disable":                      "clear",
		"postgres://u:" + good + "@db.example/c?sslmode=prefer":                       "clear",
		"postgres://u:" + good + "@db.example/c?sslmode=allow":                        "clear",
		"postgres://u:" + good + "@db.example/c":                                      "clear", // the default sslmode is prefer, which allows plain text
		"postgres://u:" + good + "@10.0.0.1/c?sslmode=disable":                        "clear",
		"postgres://u:" + good + "@localhost/c?sslmode=disable":                       "",
		"postgres://u:" + good + "@127.0.0.1/c?sslmode=disable":                       "",
		"postgres://u:" + good + "@[::1]/c?sslmode=disable":                           "",
		"postgres://u:" + good + "@127.0.0.1,db.example/c?sslmode=disable":            "clear",
		"postgres:///c?host=/run/postgresql&user=u":                                   "",
		"postgres:///c?host=/run/postgresql&user=u&password=u":                        "",
		"postgres://u@127.0.0.1/c":                                                    "password",
		"postgres://u:qF9x2mZ7tW4@127.0.0.1/c":                                        "password",
		"postgres://u@db.example/c?sslmode=require":                                   "password",
		"postgres:///c?host=/run/postgresql":                                          "",
		"postgres://colophon:colophon@127.0.0.1/c":                                    "password",
		"postgres://u:Postgres@127.0.0.1/c":                                           "password",
		"postgres://u:u@db.example/c?sslmode=disable":                                 "clear password",
		"host=db.example user=u password=" + good + " dbname=c sslmode=disable":       "clear",
		"host=db.example user=u password=" + good + " dbname=c sslmode=require":       "",
		"host=127.0.0.1,10.0.0.1 user=u password=" + good + " dbname=c sslmode=allow": "clear",
	} {
		weak, err := Weaknesses(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
		}
		got := strings.Join(weak, "; ")
		words := strings.Fields(want)
		if len(weak) != len(words) || strings.Contains(got, good) {
			t.Errorf("%s: %q, want %q", url, weak, want)
		}
		for _, word := range words {
			if !strings.Contains(got, word) {
				t.Errorf("%s: %q, want %q", url, weak, want)
			}
		}
	}
	if _, err := Weaknesses("db.example/c"); err == nil {
		t.Error("a string that is not a URL passes")
	}
}
