package main

import (
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/api"
	"colophon/internal/limit"
	"colophon/jobs"
)

// limitFlags limit the requests of clients and the jobs of users.
type limitFlags struct {
	RateLimits     string     `default:"${rate_limits}" enum:"memory,shared" help:"Where requests are counted: memory (each process by itself) or shared (all processes together, in the database) ($COLOPHON_RATE_LIMITS)."`
	NoRateLimits   bool       `help:"Turn off all limits on requests and on wrong passwords ($COLOPHON_NO_RATE_LIMITS)."`
	LimitUsers     limit.Rate `default:"5/1m" help:"Registrations per client network ($COLOPHON_LIMIT_USERS)."`
	LimitToken     limit.Rate `default:"10/1m" help:"Sign-ins per client network ($COLOPHON_LIMIT_TOKEN)."`
	LimitJobs      limit.Rate `default:"5/1m" help:"Calls of POST /generate, and texts of OpenAI's routes, per user; calls of POST /jobs have the same limit, counted separately ($COLOPHON_LIMIT_JOBS)."`
	LimitDetect    limit.Rate `default:"10/1m" help:"Calls of POST /detect per user ($COLOPHON_LIMIT_DETECT)."`
	LimitWebhooks  limit.Rate `default:"20/1m" help:"Calls per user that create, change, rotate or test webhooks or send their messages again ($COLOPHON_LIMIT_WEBHOOKS)."`
	LimitKeys      limit.Rate `default:"60/1m" help:"Texts per API key, by all operations together, unless the key has a lower limit of its own. All keys of a user together have 16 times as many ($COLOPHON_LIMIT_KEYS)."`
	LimitCalls     limit.Rate `default:"1200/1m" help:"All other calls per user, and those of OpenAI's routes ($COLOPHON_LIMIT_CALLS)."`
	LimitLog       limit.Rate `default:"6000/1m" help:"Requests for the public log (/log/...), per client network. Each process counts by itself ($COLOPHON_LIMIT_LOG)."`
	LimitAnonymous limit.Rate `default:"600/1m" help:"Requests without a user, per client network: pages, unknown routes, and requests without a valid access token. Each process counts by itself ($COLOPHON_LIMIT_ANONYMOUS)."`

	MaxJobTime         jobTime `default:"10m" help:"Maximum time from the acceptance of a job to its end. The header Cancel-After can only shorten it ($COLOPHON_MAX_JOB_TIME)."`
	MaxOutstandingJobs uint32  `default:"1000" help:"Maximum number of queued and running jobs per user; 0 means no limit ($COLOPHON_MAX_OUTSTANDING_JOBS)."`
	MaxQueuedJobs      uint32  `default:"10000" help:"Maximum number of queued jobs of all users; 0 means no limit ($COLOPHON_MAX_QUEUED_JOBS)."`
	MaxStreams         uint16  `default:"64" help:"Maximum number of open event streams and of waits of OpenAI's routes per user and process; 0 means no limit ($COLOPHON_MAX_STREAMS)."`
	TokenBudget        uint32  `default:"0" help:"Maximum number of tokens per user and day (UTC), of prompts and completions together; 0 means no limit ($COLOPHON_TOKEN_BUDGET)."`
}

// maxAllStreams limits the open event streams of a process. Each stream takes about 35 kB
// of memory, and one HTTP/2 connection can have many streams.
const maxAllStreams = 10_000

// jobTime is the value of --max-job-time, such as 10m.
type jobTime struct{ time.Duration }

// UnmarshalText reads a duration from 1s to 24h.
func (t *jobTime) UnmarshalText(text []byte) (err error) {
	t.Duration, err = time.ParseDuration(string(text))
	if err != nil || t.Duration < time.Second || t.Duration > 24*time.Hour {
		return errors.New("want a duration from 1s to 24h, such as 10m")
	}
	return nil
}

// jobLimits returns the limits on jobs.
func (f *limitFlags) jobLimits() jobs.Limits {
	return jobs.Limits{
		Outstanding: int(f.MaxOutstandingJobs), Queued: int(f.MaxQueuedJobs), Tokens: int(f.TokenBudget),
		JobTime: f.MaxJobTime.Duration,
	}
}

// rateLimits returns the limits on requests. Requests without a user and requests for the
// log are always counted in memory. Their limits protect the process, so they must work
// without the database.
func (f *limitFlags) rateLimits(pool *pgxpool.Pool) (l api.Limits, err error) {
	if f.NoRateLimits {
		return l, nil
	}
	for _, r := range []struct {
		to   **limit.Limit
		name string
		rate limit.Rate
	}{
		{&l.Users, "users", f.LimitUsers},
		{&l.Token, "token", f.LimitToken},
		{&l.Generate, "generate", f.LimitJobs},
		{&l.Jobs, "jobs", f.LimitJobs},
		{&l.Detect, "detect", f.LimitDetect},
		{&l.Webhooks, "webhooks", f.LimitWebhooks},
		{&l.Keys, "keys", f.LimitKeys},
		{&l.Calls, "calls", f.LimitCalls},
		{&l.Log, "log", f.LimitLog},
		{&l.Anonymous, "anonymous", f.LimitAnonymous},
	} {
		if f.RateLimits == "shared" && r.to != &l.Anonymous && r.to != &l.Log {
			*r.to = limit.Shared(pool, r.name, r.rate)
		} else if *r.to, err = limit.InMemory(r.name, r.rate); err != nil {
			return api.Limits{}, err
		}
	}
	return l, nil
}
