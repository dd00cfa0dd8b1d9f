package api

import (
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

// prefer reads a Prefer header (RFC 7240): how long to wait, and what the
// response says was applied. Preferences that it does not know are ignored, as
// the RFC wants.
func prefer(header string, wait time.Duration) (time.Duration, string) {
	var applied []string
	for preference := range strings.SplitSeq(header, ",") {
		preference, _, _ = strings.Cut(preference, ";")
		name, value, _ := strings.Cut(preference, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "respond-async":
			return 0, "respond-async"
		case "wait":
			seconds, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 31)
			if err != nil {
				continue
			}
			wait = min(time.Duration(seconds)*time.Second, maxWait)
			applied = []string{"wait=" + strconv.Itoa(int(wait.Seconds()))}
		}
	}
	return wait, strings.Join(applied, ", ")
}

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
