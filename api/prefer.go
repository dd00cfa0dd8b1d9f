package api

import (
	"context"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	// defaultWait is how long /generate waits for its text, and maxWait how long any
	// request may wait.
	defaultWait = 30 * time.Second
	maxWait     = 60 * time.Second

	// beat is how often a follower polls without an announcement, and how often a silent
	// stream sends a heartbeat.
	beat = 10 * time.Second
)

// preference is how a request wants to wait.
type preference struct {
	wait  time.Duration // for the job to end, at most
	given bool          // the client sent wait=N
	async bool          // the client sent respond-async: its job goes on without it
}

// prefer reads a Prefer header (RFC 7240). wait is the default wait. respond-async
// alone means no wait, and with wait=N an answer of 202 after the wait. The first of
// repeated preferences counts, and unknown ones are ignored.
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

// applied returns the preferences that an answer with the status has followed.
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

// left reports whether the request's client has disconnected. While the service stops,
// the service may have ended the request itself.
func (s *server) left(ctx context.Context) bool { return ctx.Err() != nil && s.Stopping.Err() == nil }

// accepts reports whether an Accept header names a media type, without a weight of
// zero.
func accepts(header, media string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, parameters, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(name), media) {
			return !refused.MatchString(parameters)
		}
	}
	return false
}

// refused matches the parameters of a media type that the client refuses (RFC 9110,
// 12.4.2).
var refused = regexp.MustCompile(`(?i)(^|;)[ \t]*q[ \t]*=[ \t]*0(\.0*)?[ \t]*(;|$)`)
