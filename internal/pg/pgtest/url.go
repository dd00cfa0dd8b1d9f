package pgtest

import (
	"net/url"
	"strings"
)

// withDatabase returns the connection URL, or the keyword=value pairs, with
// another database name.
func withDatabase(databaseURL, name string) string {
	if !strings.Contains(databaseURL, "://") {
		return databaseURL + " dbname=" + name // if there are two values for dbname, the last one counts
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		return databaseURL // the attempt to connect will report the error
	}
	u.Path = "/" + name
	q := u.Query()
	q.Del("dbname")
	u.RawQuery = q.Encode()
	return u.String()
}

// With returns the connection URL, or the keyword=value pairs, with another setting.
func With(databaseURL, setting, value string) string {
	u, err := url.Parse(databaseURL)
	if err != nil || u.Scheme == "" {
		return databaseURL + " " + setting + "=" + value // the last value counts
	}
	q := u.Query()
	q.Set(setting, value)
	u.RawQuery = q.Encode()
	return u.String()
}
