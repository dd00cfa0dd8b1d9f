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
	// defaultWait is the time that /generate waits for its text by default. maxWait is
	// the longest time that any request may wait.
	defaultWait = 30 * time.Second
	maxWait     = 60 * time.Second

	// beat is the interval at which a follower polls for events that were not announced.
	// A silent stream sends a heartbeat at the same interval.
	beat = 10 * time.Second
)

// preference is the parsed Prefer header of a request.
type preference struct {
	wait  time.Duration // the longest wait for the job to end
	given bool          // the client sent wait=N
	async bool          // the client sent respond-async, so the job goes on if the client disconnects
}

// prefer parses a Prefer header (RFC 7240). The parameter wait is the default wait.
// respond-async without wait=N means no wait. respond-async with wait=N means an answer
// of 202 after the wait, unless the job has ended. If a preference is repeated, the first
// one counts. Unknown preferences are ignored.
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

// applied returns the value of Preference-Applied for an answer with the status.
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

// left reports whether the request's client has disconnected. It reports false while the
// service stops, because the service itself may have ended the request.
func (s *server) left(ctx context.Context) bool { return ctx.Err() != nil && s.Stopping.Err() == nil }

// accepts reports whether an Accept header names a media type, and the weight of that
// media type is not zero.
func accepts(header, media string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, parameters, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(name), media) {
			return !refused.MatchString(parameters)
		}
	}
	return false
}

// refused matches the parameters of a media type whose weight q is zero. A weight of zero
// means that the client refuses that media type (RFC 9110, 12.4.2).
var refused = regexp.MustCompile(`(?i)(^|;)[ \t]*q[ \t]*=[ \t]*0(\.0*)?[ \t]*(;|$)`)
