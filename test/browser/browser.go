// Package browser runs pages in a real browser, for tests. It records what pages request and
// which errors they report. A Browser belongs to one test, and its methods may be called from
// one goroutine.
package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Browser is a real browser. It records all requests of the pages and all errors that the
// pages report.
type Browser struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	requests []string
	errors   []string
}

// New starts a browser for one test. It skips the test if this machine has no Chromium.
func New(t *testing.T) *Browser {
	t.Helper()
	var exe string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			exe = found
			break
		}
	}
	if exe == "" {
		t.Skip("Chromium is missing: install it to test the pages (Debian: apt-get install chromium; macOS: brew install --cask chromium)")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(exe),
		chromedp.WSURLReadTimeout(2*time.Minute), // starting takes long on a busy machine
		chromedp.NoSandbox,                       // containers lack privileges for the sandbox, and the pages are our own
		chromedp.UserDataDir(t.TempDir()),
		chromedp.WindowSize(1000, 1400),
		chromedp.Flag("force-prefers-reduced-motion", true), // a click must not miss a button that scrolls
	)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &Browser{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatal(err)
	}
	_, err := chromedp.Call(ctx, log.Enable, cdp.Empty{})
	_, err2 := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *Browser) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, e.Request.URL)
	case *runtime.EventExceptionThrown:
		b.errors = append(b.errors, fmt.Sprintf("%+v", e.ExceptionDetails))
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Source == log.EntrySourceSecurity {
			b.errors = append(b.errors, fmt.Sprint(e.Entry.Source, ": ", e.Entry.Text, " ", e.Entry.URL))
		}
	}
}

// Reported returns the errors that pages have reported since the last call.
func (b *Browser) Reported() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	reported := b.errors
	b.errors = nil
	return reported
}

// Do runs steps. what names them in the errors of the test.
func (b *Browser) Do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	Read(b, what, chromedp.Steps(steps...))
}

// Read runs an action and returns its result.
func Read[T any](b *Browser, what string, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 3*time.Minute) // as long as a page may take beside all other tests
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		b.Show("failed")
		b.t.Fatalf("%s: %v; reported %q", what, err, b.Reported())
	}
	return result
}

// Show saves a screenshot of the page in the directory $COLOPHON_TEST_PICTURES.
func (b *Browser) Show(name string) {
	b.t.Helper()
	dir := os.Getenv("COLOPHON_TEST_PICTURES")
	if dir == "" {
		return
	}
	screenshot, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), screenshot, 0o600)
	}
	if err != nil {
		b.t.Errorf("screenshot %s: %v", name, err)
	}
}

// Requests returns the addresses that pages have requested.
func (b *Browser) Requests() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.requests)
}
