package main

import (
	"crypto/ed25519"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"colophon/events/receipt"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
	"colophon/test/apitest"
)

// savedLog is the files of a log, by their paths.
type savedLog map[string]string

func (s savedLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content, ok := s[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write([]byte(content))
}

// changed returns a copy of the files with another content of one.
func (s savedLog) changed(path, content string) savedLog {
	c := maps.Clone(s)
	c[path] = content
	return c
}

// recorder is a proxy that keeps what a service answers with status 200.
func recorder(t *testing.T, service string) (proxy string, saved savedLog) {
	t.Helper()
	target, err := url.Parse(service)
	if err != nil {
		t.Fatal(err)
	}
	saved = savedLog{}
	var mu sync.Mutex
	next := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = target.Host
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		if answer.Code == http.StatusOK {
			mu.Lock()
			saved[r.URL.Path] = answer.Body.String()
			mu.Unlock()
		}
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}))
	t.Cleanup(server.Close)
	return server.URL, saved
}

// TestRemoteLogIsAudited audits the log of a running service, and copies of its files that
// somebody has changed.
func TestRemoteLogIsAudited(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	dir := t.TempDir()
	file := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	verify := func(name string, want int, says string, args ...string) {
		t.Helper()
		out, _, err := command(t, "", append([]string{"log", "verify"}, args...)...)
		got := 0
		if err != nil {
			got, out = status(err), out+err.Error()
		}
		if got != want || !strings.Contains(out, says) {
			t.Errorf("%s: status %d, %q, want %d, %q", name, got, out, want, says)
		}
	}
	s := serveWith(t, []string{"--data", dir, "--database-url", db.URL}, "up", "--log-origin", "log.example/test")
	_, err := db.Owner.Exec(t.Context(), `insert into events (stream, version, owner, type, at, schema, payload)
		select 'account/' || gen_random_uuid(), 1, gen_random_uuid(), 'test', now(), 2, convert_to(gen_random_uuid()::text, 'UTF8') from generate_series(1, 600)`)
	if err != nil {
		t.Fatal(err)
	}
	proxy, saved := recorder(t, s.url)
	c := apitest.Client{T: t, URL: proxy}
	var first receipt.SignedCheckpoint
	var keys string
	eventually(t, "the log has a checkpoint of 600 events", func() (ok bool) {
		first, keys, ok = logOf(t, c)
		return ok && first.Size >= 600
	})
	key, earlier := file("log.key", keys), file("earlier", saved["/log/checkpoint"])
	newUser(t, s.url, "isaac")
	eventually(t, "the registration is in a checkpoint", func() bool { now, _, _ := logOf(t, c); return now.Size > first.Size })
	remote := proxy + "/log"
	verify("the service", 0, "Proven: the log log.example/test has exactly the entries of its signed checkpoint", "--url", remote, "--key", key)
	verify("the service after a restart of the monitor", 0, "begins with the entries of the earlier checkpoints (2)", "--url", remote+"/", "--key", key, "--since", earlier, "--log-state", filepath.Join(dir, "log-state"))
	verify("no key", 2, "Nothing is wrong with the log log.example/test", "--url", remote)
	verify("a policy", 0, "Proven", "--policy", file("policy", fmt.Sprintf("log %s %s\nquorum none\n", strings.TrimSpace(keys), remote)))
	verify("a policy with the same key", 0, "Proven", "--key", key, "--policy", filepath.Join(dir, "policy"))
	witness := fmt.Sprintf("witness w %s\n", receipt.NewCosigner("witness.example", ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), nil))
	verify("a policy with a witness", 2, "lacks cosignatures that the policy wants", "--key", key, "--url", remote, "--policy", file("quorum", witness+"quorum w\n"))
	verify("a policy without a URL", 64, "name the URL of the log with --url", "--key", key, "--policy", file("nowhere", "quorum none\n"))
	verify("no policy", 64, "--policy", "--url", remote, "--policy", key)
	verify("no URL", 64, "--url: want a URL", "--url", "log.example", "--key", key)
	verify("another key", 2, "no key that you trust has signed it", "--url", remote, "--key", file("other.key", otherKey))
	verify("not the URL of the log", 2, "/log/log/checkpoint: it does not exist there", "--url", remote+"/log", "--key", key)
	verify("another earlier log", 2, "is of the log log.example/other", "--url", remote, "--since", file("other", strings.Replace(string(mustRead(t, earlier)), "log.example/test", "log.example/other", 1)))
	verify("no earlier checkpoint", 2, "earlier checkpoint", "--url", remote, "--key", key, "--since", file("nothing", "earlier checkpoint\n\n"))

	verify("the log that is saved", 0, "Proven", "--url", remote, "--key", key) // the last checkpoint that is saved is the one of these tiles
	forger, forgedKey, err := note.GenerateKey(nil, "log.example/test")
	if err != nil {
		t.Fatal(err)
	}
	text, lines, err := receipt.CutSignatures(saved["/log/checkpoint"])
	if err != nil {
		t.Fatal(err)
	}
	resign := func(text string) string {
		signer, err := note.NewSigner(forger)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return string(signed)
	}
	flip := func(path string, at int) savedLog {
		content := []byte(saved[path])
		content[at] ^= 1
		return saved.changed(path, string(content))
	}
	for name, k := range map[string]struct {
		files  savedLog
		status int
		says   string
		args   []string
	}{
		"unchanged":        {saved, 0, "Proven", []string{"--key", key, "--since", earlier}},
		"an entry":         {flip("/log/tile/entries/001", 40), 1, "refuted: entry 257: the entry in tile/entries/001 is wrong", []string{"--key", key}},
		"a hash":           {flip("/log/tile/0/001", 40), 1, "refuted: entry 257: the hash in tile/0/001 is wrong", []string{"--key", key}},
		"a node":           {flip("/log/tile/1/000.p/2", 40), 1, "refuted: entries 256 to 511: hash 1 of tile/1/000.p/2", []string{"--key", key}},
		"a node, no key":   {flip("/log/tile/1/000.p/2", 40), 1, "refuted: entries 256 to 511", nil},
		"a signature":      {saved.changed("/log/checkpoint", strings.Replace(text, "\n6", "\n5", 1)+"\n"+lines), 1, "a signature of the log is not valid", []string{"--key", key}},
		"another key":      {saved.changed("/log/checkpoint", resign(text)), 2, "no key that you trust has signed it", []string{"--key", key}},
		"a forged key":     {saved.changed("/log/checkpoint", resign(text)), 0, "Proven", []string{"--key", file("forged.key", forgedKey+"\n")}},
		"lost events":      {saved.changed("/log/checkpoint", string(mustRead(t, earlier))), 1, "and an earlier checkpoint has", []string{"--key", key, "--since", file("latest", saved["/log/checkpoint"])}},
		"no checkpoint":    {saved.changed("/log/checkpoint", "hello"), 2, "the checkpoint of", []string{"--key", key}},
		"a web page":       {saved.changed("/log/checkpoint", "<!DOCTYPE html>\n\n\n"), 2, "cannot tell", nil},
		"a tile that ends": {saved.changed("/log/tile/0/001", saved["/log/tile/0/001"][:100]), 2, "the answer has 100 bytes, want 8192", []string{"--key", key}},
	} {
		server := httptest.NewServer(k.files)
		verify(name, k.status, k.says, append([]string{"--url", server.URL + "/log"}, k.args...)...)
		server.Close()
	}
}
