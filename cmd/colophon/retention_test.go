package main

import (
	"strings"
	"testing"
	"time"
)

// TestRetentionIsBounded reads values of --retain-texts.
func TestRetentionIsBounded(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"30d": 30 * 24 * time.Hour, "1d": 24 * time.Hour, "3650d": 3650 * 24 * time.Hour, "1h": time.Hour, "90m": 90 * time.Minute, "720h": 720 * time.Hour,
		"": 0, "0": 0, "0d": 0, "59m": 0, "3651d": 0, "87601h": 0, "-1d": 0, "-30d": 0, "1.5d": 0, "d": 0, "30": 0, "30D": 0, "1d12h": 0, "99999999999d": 0, " 30d": 0, "+30d": 0,
	} {
		var r retention
		err := r.UnmarshalText([]byte(text))
		if (err == nil) != (want > 0) || err == nil && r.Duration != want {
			t.Errorf("%q: %v, %v, want %v", text, r.Duration, err, want)
		}
	}
	_, _, err := command(t, "", "worker", "--retain-texts", "soon")
	if err == nil || status(err) != 2 || !strings.Contains(err.Error(), "--retain-texts") || !strings.Contains(err.Error(), "30d") {
		t.Errorf("wrong usage: %v", err)
	}
}
