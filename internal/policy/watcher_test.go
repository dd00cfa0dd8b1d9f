package policy

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNewWatcherReportsInvalidFiles(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	builtIn, err := NewWatcher("", log)
	if err != nil || builtIn.Rules().Version() != Default().Version() {
		t.Errorf("without a file: %v, %v", builtIn, err)
	}
	file := filepath.Join(dir, "rules")
	for _, c := range []struct{ text, message string }{
		{"name x\nword\n", file + ": line 2: a word has 2 to 64 letters"},
		{"word sunset\n", "the name is missing"},
		{strings.Repeat("#\n", MaxRulesSize), "the limit of 65536"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewWatcher(file, log); err == nil || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%.20q: %v, want %q", c.text, err, c.message)
		}
	}
	if _, err := NewWatcher(filepath.Join(dir, "nowhere"), log); err == nil {
		t.Error("a missing file is no error")
	}
}

// TestChangedFileComesIntoForce changes the file of a watcher. Rules that are complete
// and valid must come into force. After any other change, the previous rules must stay
// in force.
func TestChangedFileComesIntoForce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("name one\nword sunset\n")
	var said bytes.Buffer
	w, err := NewWatcher(file, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	name := func() string { n, _, _ := strings.Cut(w.Rules().Version(), "/"); return n }
	ctx := t.Context()
	poll := func() { w.reload(ctx, false) }

	poll()
	write("name two\nword sunrise\n")
	poll()
	if name() != "one" {
		t.Error("a file that may be incomplete is in force")
	}
	poll()
	if name() != "two" || !strings.Contains(said.String(), "policy file reloaded") {
		t.Errorf("%s is in force: %s", name(), said.String())
	}

	// An unchanged file must not be parsed again.
	parsed := w.Rules()
	for range 3 {
		if poll(); w.Rules() != parsed {
			t.Error("an unchanged file was parsed again")
		}
	}

	said.Reset()
	write("name three\nword\n")
	for range 5 {
		poll()
	}
	if name() != "two" || strings.Count(said.String(), "policy file broken") != 1 || !strings.Contains(said.String(), "line 2") || !strings.Contains(said.String(), "level=ERROR") {
		t.Errorf("a broken file: %s is in force, %s", name(), said.String())
	}
	said.Reset()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	poll()
	poll()
	if name() != "two" || strings.Count(said.String(), "policy file broken") != 1 {
		t.Errorf("without the file: %s is in force, %s", name(), said.String())
	}
	said.Reset()
	write("name two\nword sunrise\n")
	poll()
	poll()
	if name() != "two" || strings.Count(said.String(), "policy file reloaded") != 1 {
		t.Errorf("with the file again: %s is in force, %s", name(), said.String())
	}
	write("name four\n")
	w.Reload(ctx)
	if name() != "four" {
		t.Errorf("after Reload: %s is in force", name())
	}

	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { w.Run(ctx); close(ended) }()
		write("name five\n")
		time.Sleep(2*pollEvery + 1)
		if synctest.Wait(); name() != "five" {
			t.Errorf("after two polls: %s is in force", name())
		}
		stop()
		<-ended
	})
}
