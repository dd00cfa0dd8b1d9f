package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// defaultWait is how long /generate waits for its text, and maxWait how
	// long any request may.
	defaultWait = 30 * time.Second
	maxWait     = 60 * time.Second

	// beat is how often a follower looks for itself, and how often a silent
	// stream shows that it is alive.
	beat = 10 * time.Second
)

// preference is what a request says of waiting.
type preference struct {
	wait  time.Duration // for the job to end, at most
	given bool          // the client said so
	async bool          // the client does not depend on the answer: whether it stays says nothing
}

// prefer reads a Prefer header (RFC 7240); wait is how long to wait if it does
// not say. respond-async alone is not to wait at all, and with wait=N to answer
// 202 after that. Of preferences that are repeated the first counts; those that
// it does not know are ignored.
func prefer(header string, wait time.Duration) preference {
	p := preference{wait: wait}
	for text := range strings.SplitSeq(header, ",") {
		text, _, _ = strings.Cut(text, ";")
		name, value, _ := strings.Cut(text, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "respond-async":
			p.async = true
		case "wait":
			seconds, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 31)
			if err != nil || p.given {
				continue
			}
			p.wait, p.given = min(time.Duration(seconds)*time.Second, maxWait), true
		}
	}
	if p.async && !p.given {
		p.wait = 0
	}
	return p
}

// applied returns which preferences an answer of the status has followed.
func (p preference) applied(status int) string {
	var applied []string
	if p.async && status == http.StatusAccepted {
		applied = append(applied, "respond-async")
	}
	if p.given {
		applied = append(applied, "wait="+strconv.Itoa(int(p.wait.Seconds())))
	}
	return strings.Join(applied, ", ")
}

// left reports whether a request's client has gone; while the service stops, that
// is not its doing.
func (s *server) left(ctx context.Context) bool { return ctx.Err() != nil && s.Stopping.Err() == nil }

// accepts reports whether an Accept header asks for a media type by name.
func accepts(header, media string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, _, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(name), media) {
			return true
		}
	}
	return false
}
