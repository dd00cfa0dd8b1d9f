package main

import (
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

func TestBrokenPolicyIsAUsageError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte("name x\nword\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"up"}, {"api"}, {"worker"}} {
		_, _, err := command(t, "", append(args, "--policy", file)...)
		if _, ok := errors.AsType[*usageError](err); !ok || !strings.Contains(err.Error(), "--policy: "+file+": line 2: a word has 2 to 64 letters") {
			t.Errorf("%s: %v", args[0], err)
		}
	}
}

// TestHangupReloadsPolicyAndCertificate sends a SIGHUP to this process. Both the rules
// and the certificate must be reloaded.
func TestHangupReloadsPolicyAndCertificate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("name one\n")
	rules, err := policy.NewWatcher(file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	certificate := make(chan struct{}, 1)
	defer (&policyFlags{Policy: file}).onHangup(t.Context(), rules, func() { certificate <- struct{}{} })()
	write("name two\n")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	select {
	case <-certificate: // the certificate is reloaded after the rules
	case <-time.After(time.Minute):
		t.Fatal("SIGHUP reloaded nothing")
	}
	if now := rules.Rules().Version(); !strings.HasPrefix(now, "two/") {
		t.Errorf("the rules are %s, want two", now)
	}
}
