package hub

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"colophon/internal/retry"
)

// stallTimeout is the longest time that a request may wait for the next byte.
const stallTimeout = 30 * time.Second

// download is the state of one file while it is fetched.
type download struct {
	source
	part     *os.File // partial file; its file offset is at the end
	hash     hash.Hash
	received int64  // number of bytes in part, all of which have been written to hash
	pieces   bool   // true if the bytes of the file came in more than one response
	etag     string // strong ETag of the response, for If-Range; empty if there is none
	progress func(int64)
}

// fetch completes the file at path from a source. If the digest is known, fetch resumes
// a partial file and checks the digest of the result. The digest shows whether the
// pieces belong together. If the digest is not known, fetch requests the whole file.
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
	best := d.received
	var requests retry.Requests // failed requests without progress
	request := func() error {
		if err := d.request(ctx); err != nil {
			return err
		}
		return d.verify()
	}
	err = retry.Do(ctx, request, func(err error) (time.Duration, bool) {
		if d.received > best {
			best = d.received
			requests.Reset()
		}
		wait, again := requests.Next(err)
		if again {
			note(fmt.Sprintf("%s: %v; trying again in %v", d.Name, err, wait.Round(time.Second/10)))
		}
		return wait, again
	})
	switch {
	case err == nil:
		return d.diskError(part.Sync())
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !retry.IsPermanent(err):
		return fmt.Errorf("fetch %s: %d requests without progress; the partial file is kept, so try again later: %w", d.Name, requests.Failed(), err)
	}
	return fmt.Errorf("fetch %s: %w", d.Name, err)
}

// resume reads the partial file that an earlier fetch left, so that the download
// continues at its end.
func (d *download) resume(ctx context.Context) error {
	info, err := d.part.Stat()
	if err != nil {
		return err
	}
	if d.SHA256 == "" || info.Size() > d.Size {
		return d.restart()
	}
	d.received, err = io.CopyBuffer(d.hash, &contextReader{ctx, io.LimitReader(d.part, info.Size())}, make([]byte, 1<<20))
	d.pieces = d.received > 0
	d.progress(d.received)
	return err
}

// restart empties the partial file, so that the download begins again.
func (d *download) restart() error {
	d.hash.Reset()
	d.received, d.pieces, d.etag = 0, false, ""
	d.progress(0)
	if info, err := d.part.Stat(); err != nil || info.Size() > 0 {
		if err := errors.Join(err, d.part.Truncate(0)); err != nil {
			return retry.Permanent(err)
		}
	}
	if _, err := d.part.Seek(0, io.SeekStart); err != nil {
		return retry.Permanent(err)
	}
	return nil
}

// verify compares the digest of a complete file with the published digest. If the
// digests differ and the file came in pieces, verify empties the file and returns a
// temporary error. Then the file is fetched again in one piece.
func (d *download) verify() error {
	if d.SHA256 == "" {
		return nil
	}
	err := d.compare(hex.EncodeToString(d.hash.Sum(nil)))
	if err == nil {
		return nil
	}
	if d.pieces {
		return cmp.Or(d.restart(), errors.New("the pieces are not the published file; fetching it in one piece"))
	}
	return d.refuse(err)
}

// refuse removes the partial file and returns a permanent error.
func (d *download) refuse(err error) error {
	return retry.Permanent(fmt.Errorf("%s sent a file that is not the published one; it was removed: %w", d.base.Host, errors.Join(err, os.Remove(d.part.Name()))))
}

// errStalled is the cause of the cancellation of a stalled request.
var errStalled = fmt.Errorf("no byte for %v", stallTimeout)

// request asks for the rest of the file, or the whole file, and receives the response.
// It returns nil when all bytes of the file are received.
func (d *download) request(ctx context.Context) error {
	if d.received > 0 && d.received == d.Size {
		return nil
	}
	if d.SHA256 == "" { // without a digest, nothing shows whether two pieces belong to the same file
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
		return retry.Permanent(err)
	}
	req.Header.Set("User-Agent", "colophon")
	req.Header.Set("Accept-Encoding", "identity") // no compression, because byte ranges must count the bytes of the file
	if d.token != "" {
		req.Header.Set("Authorization", "Bearer "+d.token)
	}
	if d.received > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.received))
		if d.etag != "" {
			req.Header.Set("If-Range", d.etag)
		}
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return retry.RequestError(ctx, err)
	}
	defer resp.Body.Close()
	if err := d.checkResponse(resp); err != nil {
		return err
	}
	return d.receive(ctx, resp.Body, stall)
}

// checkResponse checks the status and the headers of a response. It restarts the
// partial file unless the body of the response continues the file.
func (d *download) checkResponse(resp *http.Response) error {
	host := resp.Request.URL.Host
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		if media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); media == "text/html" {
			return retry.Permanent(fmt.Errorf("%s answers with a web page: does a proxy or network ask you to sign in?", host))
		}
		if err := d.checkLength(host, resp.ContentLength); err != nil {
			return err
		}
		if d.received > 0 { // the server does not support ranges, or the file has changed
			if err := d.restart(); err != nil {
				return err
			}
		}
	case code == http.StatusPartialContent && d.received > 0:
		first, last, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if !ok || first != d.received || last >= d.Size {
			return cmp.Or(d.restart(), errors.New("the response is not the requested range"))
		}
		if err := d.checkLength(host, total); err != nil {
			return err
		}
		d.pieces = true
	case code == http.StatusRequestedRangeNotSatisfiable && d.received > 0:
		return cmp.Or(d.restart(), errors.New("the requested range does not exist"))
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		if d.token == "" {
			return retry.Permanent(fmt.Errorf("%s answers %s: if the model requires an account, set HF_TOKEN to your access token", host, status(code)))
		}
		return retry.Permanent(fmt.Errorf("%s answers %s: the access token in HF_TOKEN may not read %s", host, status(code), d.Name))
	case code == http.StatusNotFound || code == http.StatusGone:
		return retry.Permanent(fmt.Errorf("%s answers %s: the file does not exist there; is HF_ENDPOINT right?", host, status(code)))
	default:
		if err := retry.Unavailable(resp, fmt.Errorf("%s answers %s", host, status(code))); err != nil {
			return err
		}
		return retry.Permanent(fmt.Errorf("%s answers %s, which is unexpected for a download", host, status(code)))
	}
	if tag := resp.Header.Get("ETag"); strings.HasPrefix(tag, `"`) { // only a strong ETag begins with a quotation mark
		d.etag = tag
	}
	return nil
}

// checkLength checks n, the length of the whole file. n is negative if the length is
// unknown.
func (d *download) checkLength(host string, n int64) error {
	switch {
	case !d.sized() && n > maxConfig:
		return retry.Permanent(fmt.Errorf("%s has a file of %d bytes, too large for a config", host, n))
	case d.sized() && n >= 0 && n != d.Size:
		return retry.Permanent(fmt.Errorf("%s has a file of %d bytes, the published one has %d", host, n, d.Size))
	}
	return nil
}

// receive appends a response body to the partial file.
func (d *download) receive(ctx context.Context, body io.Reader, stall *time.Timer) error {
	limit := d.Size
	if !d.sized() {
		limit = maxConfig
	}
	b := make([]byte, 256<<10)
	for {
		stall.Reset(stallTimeout)
		n, err := body.Read(b)
		stall.Stop()
		if int64(n) > limit-d.received {
			return d.refuse(fmt.Errorf("%s is longer than %d bytes", d.Name, limit))
		}
		if n > 0 {
			n, err := d.part.Write(b[:n])
			d.hash.Write(b[:n])
			d.received += int64(n)
			d.progress(d.received)
			if err != nil {
				return retry.Permanent(d.diskError(err))
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return retry.RequestError(ctx, err)
		}
	}
	if d.received < d.Size {
		return fmt.Errorf("the response ended after %d of %d bytes", d.received, d.Size)
	}
	return nil
}

// diskError adds advice to errors for lack of space. It returns other errors, and
// nil, unchanged.
func (d *download) diskError(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("the disk is full: %d of %d bytes are kept; free some space or choose another directory for models, then try again (%w)", d.received, d.Size, err)
	case errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("a file of %d bytes exceeds what the file system or the limit of this process (ulimit -f) allows: choose another directory for models (%w)", d.Size, err)
	}
	return err
}

// status returns a status code with its text.
func status(code int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", code, http.StatusText(code)))
}

// parseContentRange reads "bytes first-last/total" (RFC 9110 section 14.4). If the
// header has "*" instead of the total, total is -1.
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
