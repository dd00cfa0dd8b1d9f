package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
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

// TestHangupReloads sends this process a SIGHUP, as to one that serves.
func TestHangupReloads(t *testing.T) {
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
	case <-certificate: // which comes after the rules
	case <-time.After(10 * time.Second):
		t.Fatal("SIGHUP was not heard")
	}
	if now := rules.Rules().Version(); !strings.HasPrefix(now, "two/") {
		t.Errorf("%s is in force", now)
	}
}

// TestTheTextPolicyHoldsOnBothSides runs a service under rules that no text of
// the built-in model keeps for long.
//
// security: LLM05:2025
func TestTheTextPolicyHoldsOnBothSides(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte("name house\nword the\nword and\nword of\nremove ~\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := up(t, dataDir(t), "--no-rate-limits", "--policy", file)
	c := newUser(t, s, "isaac")
	for _, prompt := range []string{"The light", "t.h.e light", "ｔｈｅ light", "t~he"} {
		body, _ := json.Marshal(map[string]string{"prompt": prompt})
		c.Do("POST", "/generate", string(body)).Refused(t, 422, "prompt_word")
	}
	refused := regexp.MustCompile(`(?i)\b(the|and|of)\b`)
	ended := 0
	for seed := range 5 {
		body := fmt.Sprintf(`{"prompt":"Light","max_new_tokens":60,"seed":%d}`, seed)
		first := c.Do("POST", "/generate", body, "Idempotency-Key", fmt.Sprintf(`"%d"`, seed)).Must(t, 200)
		again := c.Do("POST", "/generate", body, "Idempotency-Key", fmt.Sprintf(`"%d"`, seed)).Must(t, 200)
		var j job
		first.Into(t, &j)
		if !bytes.Equal(first.Body, again.Body) {
			t.Errorf("%s, and again %s", first.Body, again.Body)
		}
		if j.FinishReason == "content_filter" {
			ended++
		}
		var heard, reason string
		for _, m := range c.follow(j.ID, "", 0) {
			var e struct {
				Text         string
				FinishReason string `json:"finish_reason"`
			}
			if err := json.Unmarshal([]byte(m.Data), &e); err != nil {
				t.Fatal(err)
			}
			heard += e.Text
			reason = e.FinishReason
			if refused.MatchString(heard) {
				t.Errorf("seed %d: %q has left", seed, heard)
			}
		}
		if heard != j.Completion || reason != j.FinishReason {
			t.Errorf("seed %d: the stream has %q, %s; the job %q, %s", seed, heard, reason, j.Completion, j.FinishReason)
		}
	}
	if ended == 0 {
		t.Error("no text came to a word that is refused: this test shows nothing")
	}
	var history []job
	c.Do("GET", "/history", "").Must(t, 200).Into(t, &history)
	shown := 0
	for _, j := range history {
		if j.FinishReason == "content_filter" {
			shown++
		}
		if refused.MatchString(j.Completion) {
			t.Errorf("the history has %q", j.Completion)
		}
	}
	if shown != ended {
		t.Errorf("the history shows %d texts that were refused, %d were", shown, ended)
	}
}
