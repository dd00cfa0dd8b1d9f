package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"colophon/jobs"
)

// retentionFlags limit the time for which texts are kept.
type retentionFlags struct {
	RetainTexts retention `placeholder:"TIME" help:"Time after the end of a job after which its prompt and text are erased, such as 30d, from 1h to 3650d. Without it, they are kept until their owner erases them ($COLOPHON_RETAIN_TEXTS)."`
}

// retention is the value of --retain-texts, a duration that may be in days. Zero means that
// texts are kept.
type retention struct{ time.Duration }

// UnmarshalText reads a duration from an hour to ten years.
func (r *retention) UnmarshalText(text []byte) error {
	const day, most = 24 * time.Hour, 3650
	r.Duration = 0
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n <= most {
			r.Duration = time.Duration(n) * day
		}
	} else if d, err := time.ParseDuration(string(text)); err == nil && d <= most*day {
		r.Duration = d
	}
	if r.Duration < time.Hour {
		return errors.New("want a duration from 1h to 3650d, such as 30d")
	}
	return nil
}

// eraseOld returns a function that erases old texts until its context is done. Without the
// flag, the function returns at once.
func (f *retentionFlags) eraseOld(b *base) func(context.Context) {
	return func(ctx context.Context) {
		if age := f.RetainTexts.Duration; age > 0 {
			jobs.RunRetention(ctx, b.store, age, b.log)
		}
	}
}
