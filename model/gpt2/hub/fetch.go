package hub

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"colophon/internal/retry"
)

const (
	// stallTimeout is how long an attempt may wait for another byte.
	stallTimeout = 30 * time.Second

	// maxFailures is how many attempts in a row may bring nothing new.
	maxFailures = 6

	// An attempt waits for firstWait after the first failure, and twice as long
	// after each, or as long as the server says, but never beyond maxWait; up to
	// half of it less, so that many clients do not come back at once.
	firstWait = 500 * time.Millisecond
	maxWait   = time.Minute
)

// final is an error that another attempt would only meet again.
type final struct{ error }

func (f *final) Unwrap() error { return f.error }

// busy is the answer of a server that cannot now.
type busy struct {
	error
	wait time.Duration // that it asks for, or 0
}

// download is a file on its way to the disk.
type download struct {
	source
	part     *os.File // at its end
	hash     hash.Hash
	have     int64  // bytes in part and hash
	joined   bool   // they came with more than one answer
	etag     string // of the answer that they came with, if it is good for If-Range
	progress func(int64)
}

// fetch makes sure that a file at path has all bytes of a source and, if that is
// known, its digest. It continues what is there if the digest will tell whether
// that belongs to it.
func fetch(ctx context.Context, from source, path string, progress func(int64), note func(string)) (err error) {
	part, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, part.Close()) }()
	d := &download{source: from, part: part, hash: sha256.New(), progress: progress}
	if err := d.resume(ctx); err != nil {
		return err
	}
	best, failures := d.have, 0
	backoff := retry.Backoff{First: firstWait, Max: maxWait}
	attempt := func() error {
		if err := d.attempt(ctx); err != nil {
			return err
		}
		return d.verify()
	}
	gaveUp := false
	err = retry.Do(ctx, attempt, func(err error) (time.Duration, bool) {
		if _, ok := errors.AsType[*final](err); ok {
			return 0, false
		}
		if failures++; d.have > best {
			best, failures = d.have, 1
			backoff.Reset()
		}
		if gaveUp = failures == maxFailures; gaveUp {
			return 0, false
		}
		wait := backoff.Next()
		wait -= rand.N(wait / 2)
		if b, ok := errors.AsType[*busy](err); ok {
			wait = min(max(wait, b.wait), maxWait)
		}
		note(fmt.Sprintf("%s: %v; trying again in %v", d.Name, err, wait.Round(time.Second/10)))
		return wait, true
	})
	switch {
	case err == nil:
		return d.disk(part.Sync())
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case gaveUp:
		return fmt.Errorf("fetch %s: gave up after %d attempts that brought nothing new; what came before is kept, so try again later: %w", d.Name, failures, err)
	}
	if f, ok := errors.AsType[*final](err); ok {
		err = f.error
	}
	return fmt.Errorf("fetch %s: %w", d.Name, err)
}

// resume takes up what an earlier fetch left.
func (d *download) resume(ctx context.Context) error {
	info, err := d.part.Stat()
	if err != nil {
		return err
	}
	if d.SHA256 == "" || info.Size() > d.Size {
		return d.restart()
	}
	d.have, err = io.CopyBuffer(d.hash, &until{ctx, io.LimitReader(d.part, info.Size())}, make([]byte, 1<<20))
	d.joined = d.have > 0
	d.progress(d.have)
	return err
}

// restart forgets what came.
func (d *download) restart() error {
	d.hash.Reset()
	d.have, d.joined, d.etag = 0, false, ""
	d.progress(0)
	if info, err := d.part.Stat(); err != nil || info.Size() > 0 {
		if err := errors.Join(err, d.part.Truncate(0)); err != nil {
			return &final{err}
		}
	}
	if _, err := d.part.Seek(0, io.SeekStart); err != nil {
		return &final{err}
	}
	return nil
}

// verify compares the digest of a file that has all its bytes. What came in
// pieces gets another chance in one.
func (d *download) verify() error {
	if d.SHA256 == "" {
		return nil
	}
	err := d.compare(hex.EncodeToString(d.hash.Sum(nil)))
	if err == nil {
		return nil
	}
	if d.joined {
		return cmp.Or(d.restart(), errors.New("the pieces do not make the published file, so it is fetched in one"))
	}
	return d.refuse(err)
}

// refuse removes what came.
func (d *download) refuse(err error) error {
	return &final{fmt.Errorf("%s sent another file than the published one, which was removed: %w", d.base.Host, errors.Join(err, os.Remove(d.part.Name())))}
}

// errStalled ends an attempt.
var errStalled = fmt.Errorf("no byte for %v", stallTimeout)

// attempt asks for the rest of the file, or all of it, and takes what comes.
// It returns nil once there is nothing more to ask for.
func (d *download) attempt(ctx context.Context) error {
	if d.have > 0 && d.have == d.Size {
		return nil
	}
	if d.SHA256 == "" { // nothing would tell whether the pieces belong together
		if err := d.restart(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	defer stall.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
	if err != nil {
		return &final{err}
	}
	req.Header.Set("User-Agent", "colophon")
	req.Header.Set("Accept-Encoding", "identity") // offsets are those of the file
	if d.token != "" {
		req.Header.Set("Authorization", "Bearer "+d.token)
	}
	if d.have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
		if d.etag != "" {
			req.Header.Set("If-Range", d.etag)
		}
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return network(ctx, err)
	}
	defer resp.Body.Close()
	if err := d.begin(resp); err != nil {
		return err
	}
	return d.take(ctx, resp.Body, stall)
}

// network returns what went wrong on the way. The URL is not part of it: that of
// a redirect may be a secret.
func network(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &final{err}
	}
	return err
}

// begin looks at the head of an answer and gets ready for its body.
func (d *download) begin(resp *http.Response) error {
	host := resp.Request.URL.Host
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		if media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); media == "text/html" {
			return &final{fmt.Errorf("%s answers with a web page: does a proxy or a network want you to sign in?", host)}
		}
		if err := d.length(host, resp.ContentLength); err != nil {
			return err
		}
		if d.have > 0 { // ranges are not served here, or this is another file now
			if err := d.restart(); err != nil {
				return err
			}
		}
	case code == http.StatusPartialContent && d.have > 0:
		first, last, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if !ok || first != d.have || last >= d.Size {
			return cmp.Or(d.restart(), errors.New("the answer is another part than the one asked for"))
		}
		if err := d.length(host, total); err != nil {
			return err
		}
		d.joined = true
	case code == http.StatusRequestedRangeNotSatisfiable && d.have > 0:
		return cmp.Or(d.restart(), errors.New("there is no such part"))
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		if d.token == "" {
			return &final{fmt.Errorf("%s answers %s: if the model asks for an account, set HF_TOKEN to an access token of yours", host, status(code))}
		}
		return &final{fmt.Errorf("%s answers %s: the access token in HF_TOKEN may not read %s", host, status(code), d.Name)}
	case code == http.StatusNotFound || code == http.StatusGone:
		return &final{fmt.Errorf("%s answers %s: it does not have the file; is HF_ENDPOINT right?", host, status(code))}
	case code == http.StatusRequestTimeout || code == http.StatusTooEarly || code == http.StatusTooManyRequests || code >= 500:
		return &busy{fmt.Errorf("%s answers %s", host, status(code)), retryAfter(resp.Header.Get("Retry-After"))}
	default:
		return &final{fmt.Errorf("%s answers %s, which is no answer to a download", host, status(code))}
	}
	if tag := resp.Header.Get("ETag"); strings.HasPrefix(tag, `"`) { // not a weak one
		d.etag = tag
	}
	return nil
}

// length checks the length of the whole file, which is negative if not known.
func (d *download) length(host string, n int64) error {
	switch {
	case d.SHA256 == "" && n > maxConfig:
		return &final{fmt.Errorf("%s has a file of %d bytes, more than any config", host, n)}
	case d.SHA256 != "" && n >= 0 && n != d.Size:
		return &final{fmt.Errorf("%s has a file of %d bytes, the published one has %d", host, n, d.Size)}
	}
	return nil
}

// take appends a body to the part.
func (d *download) take(ctx context.Context, body io.Reader, stall *time.Timer) error {
	most := d.Size
	if d.SHA256 == "" {
		most = maxConfig
	}
	b := make([]byte, 256<<10)
	for {
		stall.Reset(stallTimeout)
		n, err := body.Read(b)
		stall.Stop()
		if int64(n) > most-d.have {
			return d.refuse(fmt.Errorf("%s is longer than %d bytes", d.Name, most))
		}
		if n > 0 {
			n, err := d.part.Write(b[:n])
			d.hash.Write(b[:n])
			d.have += int64(n)
			d.progress(d.have)
			if err != nil {
				return &final{d.disk(err)}
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return network(ctx, err)
		}
	}
	if d.have < d.Size {
		return fmt.Errorf("the answer ended after %d of %d bytes", d.have, d.Size)
	}
	return nil
}

// disk says what to do when there is no more room. It returns other errors, and
// none, as they are.
func (d *download) disk(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("the disk is full: %d of %d bytes are there and are kept; make room, or choose another directory for models, and try again (%w)", d.have, d.Size, err)
	case errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("a file of %d bytes is more than the file system or a limit of this process (ulimit -f) allows: choose another directory for models (%w)", d.Size, err)
	}
	return err
}

func status(code int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", code, http.StatusText(code)))
}

// retryAfter reads the header of that name: seconds, or a date. It is 0 if that
// says nothing.
func retryAfter(s string) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// parseContentRange reads "bytes first-last/total", RFC 9110 section 14.4. The
// total is -1 if it is "*".
func parseContentRange(s string) (first, last, total int64, ok bool) {
	s, isBytes := strings.CutPrefix(s, "bytes ")
	span, size, hasSize := strings.Cut(s, "/")
	from, to, hasTo := strings.Cut(span, "-")
	if !isBytes || !hasSize || !hasTo {
		return 0, 0, 0, false
	}
	number := func(s string) int64 {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			return -1
		}
		return int64(n)
	}
	first, last, total = number(from), number(to), number(size)
	ok = first >= 0 && first <= last && (last < total || size == "*")
	return first, last, total, ok
}
