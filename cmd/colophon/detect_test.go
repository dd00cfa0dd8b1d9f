package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"colophon/events"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
	"colophon/model"
	"colophon/model/catalog"
	"colophon/model/watermark"
)

// markedText returns a text of the built-in model with the watermark of a key.
func markedText(t *testing.T, key watermark.Key) string {
	t.Helper()
	source, err := catalog.Find(catalog.BuiltIn)
	if err != nil {
		t.Fatal(err)
	}
	e, err := source.Load(catalog.LoadOptions{Sequences: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	prompt := e.Encode("And hence it is manifest")
	var text strings.Builder
	p := model.Params{MaxTokens: 150, Temperature: 1, TopP: 1, Seed: 7, Choose: key.Chooser(7, prompt)}
	_, err = model.Generate(t.Context(), e, prompt, nil, p, func(d model.Delta) error {
		text.WriteString(d.Text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// ownersKey returns the watermark key of an account, which it creates, in a database whose
// master key is in a data directory.
func ownersKey(t *testing.T, db *pgtest.DB, dir, name string) watermark.Key {
	t.Helper()
	master, err := vault.ReadMasterKey(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.New(master)
	if err != nil {
		t.Fatal(err)
	}
	var owner [16]byte
	if err := db.Owner.QueryRow(t.Context(), `select id from accounts where username = $1`, name).Scan(&owner); err != nil {
		t.Fatal(err)
	}
	key, err := events.NewStore(db.App, v, slog.New(slog.DiscardHandler)).WatermarkKey(t.Context(), owner)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestDetectTellsByItsStatus looks for the watermarks of accounts in texts of one of them.
func TestDetectTellsByItsStatus(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := pgtest.New(t, migrations.Up)
	data := []string{"--data", dir, "--database-url", db.URL}
	for _, name := range []string{"isaac", "robert", "edmond"} {
		if _, _, err := command(t, password+"\n", append([]string{"user", "create", name}, data...)...); err != nil {
			t.Fatal(err)
		}
	}
	isaac, robert := ownersKey(t, db, dir, "isaac"), ownersKey(t, db, dir, "robert")
	text := markedText(t, isaac)
	file := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	marked, few := file("marked.txt", text), file("few.txt", text[:30])
	utf16 := "\xff\xfe" + strings.Join(strings.Split(text, ""), "\x00")
	for _, c := range []struct {
		name   string
		stdin  string
		args   []string
		status int
		out    string
		err    string
	}{
		{"the owner", "", []string{marked, "--owner", "isaac"}, 0, "Found: passages of the text have the watermark", ""},
		{"the key", "", []string{marked, "--owner", "isaac"}, 0, "key        " + isaac.ID() + "\n", ""},
		{"standard input", "And hence it is manifest" + text, []string{"-", "--owner", "Isaac"}, 0, "not unforgeable", ""},
		{"another account", "", []string{marked, "--owner", "robert"}, 1, robert.ID(), "proves nothing"},
		{"an account without a key", "", []string{marked, "--owner", "edmond"}, 1, "none: no text was ever marked", "proves nothing"},
		{"a few words", "", []string{few, "--owner", "isaac"}, 2, "Too short to say", "too short to say"},
		{"no words", "", []string{"-", "--owner", "isaac"}, 2, "scored     0 tokens", "too short to say"},
		{"an unknown account", "", []string{marked, "--owner", "nobody"}, 2, "", "cannot tell: no account has this name"},
		{"no account", "", []string{marked}, 64, "", "--owner"},
		{"no file", "", []string{"--owner", "isaac"}, 64, "", "<file>"},
		{"a missing file", "", []string{filepath.Join(dir, "missing"), "--owner", "isaac"}, 64, "", "missing"},
		{"a directory", "", []string{dir, "--owner", "isaac"}, 64, "", "directory"},
		{"UTF-16", utf16, []string{"-", "--owner", "isaac"}, 64, "", "not plain text in UTF-8"},
		{"UTF-16 without a mark of order", strings.TrimPrefix(utf16, "\xff\xfe"), []string{"-", "--owner", "isaac"}, 64, "", "not plain text in UTF-8"},
		{"too many tokens", strings.Repeat("Light ", 9000), []string{"-", "--owner", "isaac"}, 64, "", "at most 8000 can be examined"},
		{"too many bytes", strings.Repeat("Light ", 200_000), []string{"-", "--owner", "isaac"}, 64, "", "more than 1048576 bytes"},
		{"an unknown model", "", []string{marked, "--owner", "isaac", "--model", "nothing"}, 64, "", "--model"},
		{"an unknown flag", "", []string{marked, "--owner", "isaac", "--threshold", "0.5"}, 64, "", "threshold"},
	} {
		out, _, err := command(t, c.stdin, slices.Concat([]string{"detect"}, data, c.args)...)
		got, message := 0, ""
		if err != nil {
			got, message = status(err), err.Error()
		}
		if got != c.status || !strings.Contains(out, c.out) || c.out == "" && out != "" || !strings.Contains(message, c.err) || c.err == "" && message != "" {
			t.Errorf("%s: status %d, %q, %q, want %d, %q, %q", c.name, got, out, message, c.status, c.out, c.err)
		}
	}
	for name, want := range map[string]string{"isaac": `"found"`, "robert": `"not_found"`, "edmond": `"not_found"`} {
		out, _, err := command(t, "", slices.Concat([]string{"detect", marked, "--json", "--owner", name}, data)...)
		var members map[string]json.RawMessage
		if jsonErr := json.Unmarshal([]byte(out), &members); jsonErr != nil || string(members["result"]) != want || (err == nil) != (name == "isaac") {
			t.Errorf("%s: %q, %v, want %s", name, out, err, want)
		}
		if _, ok := members["key"]; ok == (name == "edmond") || len(members["tokens_scored"]) == 0 {
			t.Errorf("%s: %q", name, out)
		}
	}
	var keys int
	if err := db.Owner.QueryRow(t.Context(), `select count(watermark) from owner_keys`).Scan(&keys); err != nil || keys != 2 {
		t.Errorf("%d accounts have a key, %v: detect creates none", keys, err)
	}
}
