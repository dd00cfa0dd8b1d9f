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
)

// Options say where to fetch from, and who wants to know how it goes.
type Options struct {
	// Endpoint is the base URL: a file is at
	// Endpoint/<repo>/resolve/<revision>/<file>. Its scheme is https, or http
	// for those who say so; an https endpoint may not redirect to http.
	Endpoint string

	// Token is an access token for the endpoint, or empty. It is sent to the
	// endpoint's own scheme, host and port alone.
	Token string

	Transport http.RoundTripper

	// Progress, if there is one, gets the number of bytes of the model that are
	// there, out of all. It goes back when a file has to begin again. Note gets
	// what else is worth a line: a retry, a wait. Both are called by Pull's own
	// goroutine.
	Progress func(done, total int64)
	Note     func(text string)
}

// work is the directory, inside a directory of models, of what is not complete:
// <name>.lock, and <name>@<revision> with finished files and <file>.part.
const work = ".pull"

// Dir returns the directory of a release in a directory of models.
func (r Release) Dir(models string) string { return filepath.Join(models, r.Name) }

// Ensure pulls a release unless it is [Release.Present] in a directory of models. It
// notes why it pulls.
func Ensure(ctx context.Context, models string, r Release, o Options) error {
	dir := r.Dir(models)
	err := r.Present(ctx, os.DirFS(dir))
	if err == nil {
		return nil
	}
	if o.Note != nil {
		why := "is not in " + dir
		if !errors.Is(err, fs.ErrNotExist) {
			why = fmt.Sprintf("in %s is damaged (%v)", dir, err)
		}
		o.Note(fmt.Sprintf("the model %s %s: pulling it, %.1f MB", r.Name, why, float64(r.Size())/1e6))
	}
	return Pull(ctx, models, r, o)
}

// Pull makes sure that a release is complete in a directory of models, which is
// made if there is none. What is there already is read and not fetched again;
// a damaged file of a model that is there is replaced by a good one. It waits
// for other pulls of the release.
//
// After an error, or when ctx is done, what came is kept, and the next Pull
// continues with it; only what is not what was published is removed.
func Pull(ctx context.Context, models string, r Release, o Options) error {
	switch err := pull(ctx, models, r, o); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("pull %s: stopped, and what came is kept: %w", r.Name, err)
	default:
		return fmt.Errorf("pull %s: %w", r.Name, err)
	}
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
	// Others may pass through, and not look around: keys may lie beside.
	if err := os.MkdirAll(filepath.Join(models, work), 0o711); err != nil {
		return err
	}
	unlock, err := lock(ctx, filepath.Join(models, work, r.Name+".lock"), func() {
		o.Note("another process is pulling " + r.Name + ": waiting for it")
	})
	if err != nil {
		return err
	}
	defer unlock()

	stage := filepath.Join(models, work, r.Name+"@"+r.Revision)
	if err := removeOlder(stage, r); err != nil {
		return err
	}
	if err := os.MkdirAll(stage, 0o755); err != nil {
		return err
	}
	var done int64
	var fetched []string
	for _, f := range r.Files {
		if _, err := r.Check(ctx, os.DirFS(r.Dir(models)), f); err != nil {
			if err := stageFile(ctx, server, stage, r, f, o, done); err != nil {
				return err
			}
			fetched = append(fetched, f.Name)
		}
		done += f.Size
		o.Progress(done, r.Size())
	}
	return place(stage, r.Dir(models), fetched)
}

// stageFile makes sure that a file is complete in the stage. done is the number
// of bytes of the files before it.
func stageFile(ctx context.Context, s *server, stage string, r Release, f File, o Options, done int64) error {
	if _, err := r.Check(ctx, os.DirFS(stage), f); err == nil {
		return nil
	} else if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	path := filepath.Join(stage, f.Name)
	if err := fetch(ctx, s.file(r, f), path+".part", func(n int64) { o.Progress(done+min(n, f.Size), r.Size()) }, o.Note); err != nil {
		return err
	}
	if f.SHA256 == "" {
		if err := r.checkConfig(parts(stage)); err != nil {
			return fmt.Errorf("%s sent another file than the published one, which was removed: %w",
				s.base.Host, errors.Join(err, os.Remove(path+".part")))
		}
	}
	return os.Rename(path+".part", path)
}

// parts is the directory of a stage, with the files that are being fetched
// under the names that they will have.
type parts string

func (p parts) Open(name string) (fs.File, error) {
	return os.Open(filepath.Join(string(p), name+".part"))
}

// place makes a complete stage the model's directory, in one step; if there is
// one already, its files are replaced one by one.
func place(stage, dir string, files []string) error {
	_, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := syncDir(stage); err != nil {
			return err
		}
		if err := os.Rename(stage, dir); err != nil {
			return err
		}
		return syncDir(filepath.Dir(dir))
	case err != nil:
		return err
	}
	for _, name := range files {
		if err := os.Rename(filepath.Join(stage, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return errors.Join(syncDir(dir), os.RemoveAll(stage))
}

// syncDir makes the names in a directory survive a power cut.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeOlder removes what is left of pulls of other revisions.
func removeOlder(stage string, r Release) error {
	entries, err := os.ReadDir(filepath.Dir(stage))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), r.Name+"@") && e.Name() != filepath.Base(stage) {
			if err := os.RemoveAll(filepath.Join(filepath.Dir(stage), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// lockPoll is how often a lock is asked for again.
const lockPoll = 200 * time.Millisecond

// lock takes the lock of a file, which whoever ends in whatever way gives back.
// It calls wait once if it has to.
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

// server is where files come from.
type server struct {
	base   *url.URL
	token  string
	client *http.Client
}

func newServer(o Options) (*server, error) {
	base, err := url.Parse(o.Endpoint)
	switch {
	case err != nil:
		return nil, errors.New("the endpoint (HF_ENDPOINT) is not a URL") // which may hold a password
	case base.Scheme != "https" && base.Scheme != "http", base.Host == "":
		return nil, errors.New("the endpoint (HF_ENDPOINT) is not a URL such as https://huggingface.co")
	case base.User != nil, base.RawQuery != "", base.Fragment != "":
		return nil, errors.New("the endpoint (HF_ENDPOINT) is a base URL: without a user (an access token goes into HF_TOKEN), a query or a fragment")
	}
	s := &server{base: base, token: strings.TrimSpace(o.Token)}
	s.client = &http.Client{Transport: o.Transport, CheckRedirect: s.redirect}
	return s, nil
}

// maxRedirects is the most redirects on the way to a file.
const maxRedirects = 10

// redirect follows redirects, and leaves the access token at home.
func (s *server) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return &final{fmt.Errorf("more than %d redirects", maxRedirects)}
	}
	if scheme := req.URL.Scheme; scheme != "https" && scheme != s.base.Scheme {
		return &final{fmt.Errorf("redirected to %s by %s", req.URL.Host, scheme)}
	}
	if req.URL.Scheme != s.base.Scheme || req.URL.Host != s.base.Host {
		req.Header.Del("Authorization")
	}
	req.Header.Del("Referer")
	return nil
}

// file returns where a file of a release is.
func (s *server) file(r Release, f File) source {
	return source{s, f, s.base.JoinPath(r.Repo, "resolve", r.Revision, f.Name).String()}
}

// source is a file on a server.
type source struct {
	*server
	File
	url string
}
