package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"colophon/internal/retry"
)

// Options configure a pull.
type Options struct {
	// Endpoint is the base URL, with scheme https or http. The URL of a file is
	// Endpoint/<repo>/resolve/<revision>/<file>. An https endpoint must not redirect to
	// http.
	Endpoint string

	// Token is an access token for the endpoint, or empty. It is sent only to the
	// scheme, host and port of the endpoint.
	Token string

	// Transport makes the requests; nil means http.DefaultTransport.
	Transport http.RoundTripper

	// Progress, if set, receives the complete and the total bytes of the model. The
	// complete bytes decrease when a file is fetched again. Pull calls it in the
	// goroutine of its caller.
	Progress func(done, total int64)

	// Note, if set, receives other messages for the user, such as a retry or a wait.
	// Each message is one line. Pull calls it in the goroutine of its caller.
	Note func(text string)
}

// stagingDir is the directory of incomplete models, inside a directory of models. For
// each release, it has a lock file <name>.lock and a directory <name>@<revision>. This
// directory has complete files, and partial files with the name <file>.part. A name with
// a slash is written ORG--NAME.
const stagingDir = ".pull"

// Dir returns the directory of a release in a directory of models.
func (r Release) Dir(models string) string { return filepath.Join(models, r.flat()) }

// Ensure pulls a release unless [Release.Present] finds it in a directory of models. It
// passes the reason for a pull to Note. It returns the release with its files.
func Ensure(ctx context.Context, models string, r Release, o Options) (Release, error) {
	dir := r.Dir(models)
	recorded, err := r.Recorded(models)
	if err == nil {
		err = recorded.Present(ctx, os.DirFS(dir))
	}
	if err == nil {
		return recorded, nil
	}
	if o.Note != nil {
		why := "is not in " + dir
		if !errors.Is(err, fs.ErrNotExist) {
			why = fmt.Sprintf("in %s is damaged (%v)", dir, err)
		}
		size := ""
		if recorded.Pinned() {
			size = fmt.Sprintf(", %.1f MB", float64(recorded.Size())/1e6)
		}
		o.Note(fmt.Sprintf("the model %s %s: pulling it%s", r.Name, why, size))
	}
	if err := Pull(ctx, models, r, o); err != nil {
		return r, err
	}
	return r.Recorded(models)
}

// Pull completes a release in a directory of models, and creates the directory if
// necessary. It checks complete files and does not fetch them again. It replaces
// damaged files. Pull waits for other pulls of the same release, including those of
// other processes.
//
// The first pull of a release that is not pinned records its commit and the digests of
// its files, from then on the release consists of these files. Its weights are verified by
// the digest that the hub gives. The files are refused if no engine could run them.
//
// After an error, or when ctx is done, partial files are kept and the next Pull resumes
// them. Pull removes data that differs from the published data.
func Pull(ctx context.Context, models string, r Release, o Options) error {
	switch err := pull(ctx, models, r, o); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("pull %s: stopped; partial files are kept: %w", r.Name, err)
	default:
		return fmt.Errorf("pull %s: %w", r.Name, err)
	}
}

// A puller pulls releases into a directory of models.
type puller struct {
	Options
	server *server
	models string
}

func pull(ctx context.Context, models string, r Release, o Options) error {
	server, err := newServer(o)
	if err != nil {
		return err
	}
	defer server.client.CloseIdleConnections()
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	if o.Note == nil {
		o.Note = func(string) {}
	}
	// Mode 0711 lets other users open files whose paths they know, but not list the
	// directory, because keys may be stored beside the models.
	if err := os.MkdirAll(filepath.Join(models, stagingDir), 0o711); err != nil {
		return err
	}
	unlock, err := lock(ctx, filepath.Join(models, stagingDir, r.flat()+".lock"), func() {
		o.Note("another process is pulling " + r.Name + ": waiting")
	})
	if err != nil {
		return err
	}
	defer unlock()

	p := &puller{o, server, models}
	recorded, err := r.Recorded(models)
	switch {
	case err == nil:
		return p.pullPinned(ctx, recorded)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: remove %s to pull the model again", err, r.Dir(models))
	}
	if _, err := os.Lstat(r.Dir(models)); err == nil {
		return fmt.Errorf("%s exists and was not pulled: remove it, or run the model in it with --model DIR", r.Dir(models))
	}
	return p.pullFirst(ctx, r)
}

// pullPinned completes a release whose files are known.
func (p *puller) pullPinned(ctx context.Context, r Release) error {
	staging, err := p.stage(r)
	if err != nil {
		return err
	}
	var done int64
	var fetched []string
	for _, f := range r.Files {
		if _, err := r.Check(ctx, os.DirFS(r.Dir(p.models)), f); err != nil {
			if err := p.stageFile(ctx, staging, r, f, done); err != nil {
				return err
			}
			fetched = append(fetched, f.Name)
		}
		done += f.Size
		p.Progress(done, r.Size())
	}
	return install(staging, r.Dir(p.models), fetched)
}

// stage creates the staging directory of a release, and removes those of its other
// revisions.
func (p *puller) stage(r Release) (string, error) {
	staging := filepath.Join(p.models, stagingDir, r.flat()+"@"+r.Revision)
	if err := removeOlder(staging, r); err != nil {
		return "", err
	}
	return staging, os.MkdirAll(staging, 0o755)
}

// stageFile completes a file in the staging directory. done is the total size in bytes
// of the files before this file.
func (p *puller) stageFile(ctx context.Context, staging string, r Release, f File, done int64) error {
	if _, err := r.Check(ctx, os.DirFS(staging), f); err == nil {
		return nil
	} else if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	path := filepath.Join(staging, f.Name)
	if err := fetch(ctx, p.server.file(r, f), path+".part", func(n int64) { p.Progress(done+min(n, f.Size), r.Size()) }, p.Note); err != nil {
		return err
	}
	if f.SHA256 == "" {
		if err := r.checkConfig(partFS(staging)); err != nil {
			return fmt.Errorf("%s sent a file that is not the published one; it was removed: %w",
				p.server.base.Host, errors.Join(err, os.Remove(path+".part")))
		}
	}
	return os.Rename(path+".part", path)
}

// partFS is the file system of a staging directory. It shows a partial file under the
// final name of the file.
type partFS string

func (p partFS) Open(name string) (fs.File, error) {
	return os.Open(filepath.Join(string(p), name+".part"))
}

// install renames a complete staging directory to dir, in one step. If dir exists,
// install replaces the given files one by one.
func install(staging, dir string, files []string) error {
	_, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := syncDir(staging); err != nil {
			return err
		}
		if err := os.Rename(staging, dir); err != nil {
			return err
		}
		return syncDir(filepath.Dir(dir))
	case err != nil:
		return err
	}
	for _, name := range files {
		if err := os.Rename(filepath.Join(staging, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return errors.Join(syncDir(dir), os.RemoveAll(staging))
}

// syncDir makes the entries of a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeOlder removes the staging directories of the other revisions of a release.
func removeOlder(staging string, r Release) error {
	entries, err := os.ReadDir(filepath.Dir(staging))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), r.flat()+"@") && e.Name() != filepath.Base(staging) {
			if err := os.RemoveAll(filepath.Join(filepath.Dir(staging), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// lockPoll is the time between two attempts to take a lock.
const lockPoll = 200 * time.Millisecond

// lock takes an advisory lock on a file. The kernel releases the lock if the process
// ends. If another holder has the lock, lock calls wait once and tries until ctx is
// done.
func lock(ctx context.Context, path string, wait func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for waited := false; ; waited = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !waited {
			wait()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// A server is a hub, with the client and the access token for requests to it.
type server struct {
	base   *url.URL
	token  string
	client *http.Client
}

func newServer(o Options) (*server, error) {
	base, err := url.Parse(o.Endpoint)
	switch {
	case err != nil:
		return nil, errors.New("the endpoint (HF_ENDPOINT) is not a URL") // err is not wrapped, because it has the URL, perhaps with a password
	case base.Scheme != "https" && base.Scheme != "http", base.Host == "":
		return nil, errors.New("the endpoint (HF_ENDPOINT) is not a URL such as https://huggingface.co")
	case base.User != nil, base.RawQuery != "", base.Fragment != "":
		return nil, errors.New("the endpoint (HF_ENDPOINT) must be a base URL without user (an access token goes into HF_TOKEN), query or fragment")
	}
	s := &server{base: base, token: strings.TrimSpace(o.Token)}
	s.client = &http.Client{Transport: o.Transport, CheckRedirect: s.redirect}
	return s, nil
}

// maxRedirects is the largest number of redirects of a request.
const maxRedirects = 10

// redirect allows redirects to https and to the scheme of the endpoint. It removes the
// access token from requests to other servers.
func (s *server) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return retry.Permanent(fmt.Errorf("more than %d redirects", maxRedirects))
	}
	if scheme := req.URL.Scheme; scheme != "https" && scheme != s.base.Scheme {
		return retry.Permanent(fmt.Errorf("redirected to %s by %s", req.URL.Host, scheme))
	}
	if req.URL.Scheme != s.base.Scheme || req.URL.Host != s.base.Host {
		req.Header.Del("Authorization")
	}
	req.Header.Del("Referer")
	return nil
}

// file returns the source of a file of a release.
func (s *server) file(r Release, f File) source {
	return source{s, f, s.base.JoinPath(r.Repo, "resolve", r.Revision, f.Name).String()}
}

// A source is a file of a release on a server.
type source struct {
	*server
	File
	url string
}
