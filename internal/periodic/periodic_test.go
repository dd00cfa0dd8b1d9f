package periodic

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRunCallsOncePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		begin := time.Now()
		var out bytes.Buffer
		var calls []time.Duration
		Run(ctx, time.Second, slog.New(slog.NewTextHandler(&out, nil)), "work not done", func(context.Context) error {
			calls = append(calls, time.Since(begin))
			switch len(calls) {
			case 1:
				return errors.New("broken")
			case 2:
				time.Sleep(1500 * time.Millisecond)
				return nil
			case 4:
				cancel()
				return errors.New("cancelled")
			}
			return nil
		})
		want := []time.Duration{time.Second, 2 * time.Second, 3500 * time.Millisecond, 4 * time.Second}
		for i, at := range want {
			if len(calls) != len(want) || calls[i] != at {
				t.Fatalf("calls at %v, want %v", calls, want)
			}
		}
		if log := out.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, `level=WARN msg="work not done" err=broken`) {
			t.Errorf("log: %s", log)
		}
	})
}
