package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"colophon/internal/retry"
)

const (
	// attemptTimeout bounds one request, from its start to the last byte of its answer.
	attemptTimeout = 30 * time.Second

	// maxRedirects is the maximum number of redirects of one request.
	maxRedirects = 3
)

// errMissing occurs when the server has no such file.
var errMissing = errors.New("it does not exist there")

// parseURL returns the prefix of a log's files.
func parseURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return nil, errors.New("want a URL that has the log's checkpoint below it, such as https://example.com/log")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("want a URL without user, query and fragment")
	}
	return u.JoinPath(), nil
}

// sameHost allows redirects to the same host, except from https to http. The server that a
// user names is the one that is asked.
func sameHost(req *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL
	switch {
	case req.URL.Host != from.Host:
		return retry.Permanent(fmt.Errorf("it redirects to another host, %q, which is not asked", req.URL.Host))
	case req.URL.Scheme != from.Scheme && req.URL.Scheme != "https":
		return retry.Permanent(errors.New("it redirects to a URL without TLS"))
	case len(via) > maxRedirects:
		return retry.Permanent(fmt.Errorf("it redirects more than %d times", maxRedirects))
	}
	return nil
}

// get returns the content of a file, which has at most limit bytes. It repeats a request that
// fails for a while. The error is errMissing if there is no such file.
func (l *Log) get(ctx context.Context, path string, limit int, headers ...string) ([]byte, error) {
	var content []byte
	var requests retry.Requests
	err := retry.Do(ctx, func() (err error) {
		content, err = l.attempt(ctx, path, limit, headers)
		return err
	}, func(err error) (time.Duration, bool) {
		wait, again := requests.Next(err)
		if again {
			l.note(fmt.Sprintf("%s: %v; trying again in %v", path, err, wait.Round(time.Second/10)))
		}
		return wait, again
	})
	switch {
	case err == nil:
		return content, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case !retry.IsPermanent(err):
		return nil, fmt.Errorf("fetch %s: %d attempts failed, the last one with: %w", l.base.JoinPath(path), requests.Failed(), err)
	}
	return nil, fmt.Errorf("fetch %s: %w", l.base.JoinPath(path), err)
}

// attempt sends one request.
func (l *Log) attempt(ctx context.Context, path string, limit int, headers []string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, attemptTimeout, fmt.Errorf("no complete answer within %v", attemptTimeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.base.JoinPath(path).String(), nil)
	if err != nil {
		return nil, retry.Permanent(err)
	}
	req.Header.Set("User-Agent", "colophon")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return nil, retry.RequestError(ctx, err)
	}
	defer resp.Body.Close()
	if err := checkStatus(resp); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, retry.RequestError(ctx, err)
	}
	if len(content) > limit {
		return nil, retry.Permanent(fmt.Errorf("the answer has more than %d bytes", limit))
	}
	return content, nil
}

// checkStatus returns an error for an answer without the file.
func checkStatus(resp *http.Response) error {
	code := resp.StatusCode
	named := fmt.Errorf("the server answers %s", strings.TrimSpace(fmt.Sprintf("%d %s", code, http.StatusText(code))))
	switch media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); {
	case code == http.StatusOK && media == "text/html":
		return retry.Permanent(errors.New("the server answers with a web page, not with a file of a log"))
	case code == http.StatusOK:
		return nil
	case code == http.StatusNotFound || code == http.StatusGone:
		return retry.Permanent(fmt.Errorf("%w: %w", errMissing, named))
	}
	if err := retry.Unavailable(resp, named); err != nil {
		return err
	}
	return retry.Permanent(named)
}
