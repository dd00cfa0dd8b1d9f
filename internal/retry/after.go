package retry

import (
	"net/http"
	"strconv"
	"time"
)

// After returns the wait that a Retry-After header asks for: a number of seconds below 65536,
// or a date. It returns 0 for any other value.
func After(header string) time.Duration {
	if n, err := strconv.ParseUint(header, 10, 16); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
