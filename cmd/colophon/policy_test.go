package main

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"colophon/internal/policy"
)

func TestPolicyFlag(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	builtIn, err := (&policyFlags{}).rules(log)
	if err != nil || builtIn.now().Version() != policy.Default().Version() {
		t.Errorf("without a file: %v, %v", builtIn, err)
	}
	file := filepath.Join(dir, "rules")
	for _, c := range []struct{ text, message string }{
		{"name x\nword\n", "--policy: " + file + ": line 2: a word has 2 to 64 letters"},
		{"word sunset\n", "the name is missing"},
		{strings.Repeat("#\n", policy.MaxRulesSize), "more than the limit of 65536"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := (&policyFlags{Policy: file}).rules(log)
		if _, ok := errors.AsType[*usageError](err); !ok || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%.20q: %v, want %q", c.text, err, c.message)
		}
	}
	if _, err := (&policyFlags{Policy: filepath.Join(dir, "nowhere")}).rules(log); err == nil {
		t.Error("a file that is not there is no error")
	}
}

// TestAPolicyFileIsReadAgain changes a file under a process that watches it.
func TestAPolicyFileIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("name one\nword sunset\n")
	var said bytes.Buffer
	r, err := (&policyFlags{Policy: file}).rules(slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	name := func() string { n, _, _ := strings.Cut(r.now().Version(), "/"); return n }
	ctx := t.Context()
	pass := func() { r.reread(ctx, false) }

	pass()
	write("name two\nword sunrise\n")
	pass()
	if name() != "one" {
		t.Error("a file that may be being written is in force")
	}
	pass()
	if name() != "two" || !strings.Contains(said.String(), "read again") {
		t.Errorf("%s is in force: %s", name(), said.String())
	}

	said.Reset()
	write("name three\nword\n")
	for range 5 {
		pass()
	}
	if name() != "two" || strings.Count(said.String(), "BROKEN") != 1 || !strings.Contains(said.String(), "line 2") || !strings.Contains(said.String(), "level=ERROR") {
		t.Errorf("a broken file: %s is in force, %s", name(), said.String())
	}
	said.Reset()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	pass()
	pass()
	if name() != "two" || strings.Count(said.String(), "BROKEN") != 1 {
		t.Errorf("without the file: %s is in force, %s", name(), said.String())
	}
	write("name four\n")
	r.reread(ctx, true)
	if name() != "four" {
		t.Errorf("told to read it at once: %s is in force", name())
	}

	// The same by itself, in time and with the signal.
	await := func(want, why string) {
		t.Helper()
		for begin := time.Now(); name() != want; time.Sleep(time.Millisecond) {
			if time.Since(begin) > 10*time.Second {
				t.Fatalf("%s: %s is in force", why, name())
			}
		}
	}
	stop := r.watch(ctx, time.Millisecond)
	write("name five\n")
	await("five", "with time")
	stop()
	defer r.watch(ctx, time.Hour)()
	write("name six\n")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await("six", "after SIGHUP")
}
