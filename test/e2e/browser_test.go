package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"colophon/client"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// browser is a real browser. It records all requests of the pages and all errors that the
// pages report.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	requests []string
	errors   []string
}

func newBrowser(t *testing.T) *browser {
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
		chromedp.NoSandbox, // containers lack privileges for the sandbox, and the pages are our own
		chromedp.UserDataDir(t.TempDir()),
		chromedp.WindowSize(1000, 1400),
		chromedp.Flag("force-prefers-reduced-motion", true), // a click must not miss a button that scrolls
	)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &browser{t: t, ctx: ctx}
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

func (b *browser) listen(event any) {
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

// reported returns the errors that pages have reported since the last call.
func (b *browser) reported() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	reported := b.errors
	b.errors = nil
	return reported
}

func (b *browser) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	read(b, what, chromedp.Steps(steps...))
}

// read runs an action and returns its result.
func read[T any](b *browser, what string, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		b.show("failed")
		b.t.Fatalf("%s: %v; reported %q", what, err, b.reported())
	}
	return result
}

// show saves a screenshot of the page in the directory $COLOPHON_TEST_PICTURES.
func (b *browser) show(name string) {
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

// TestPagesWorkInABrowserAndRunNothingInjected registers, generates a text and signs out
// on the page, under the Content-Security-Policy of the service. Before the sign-out the
// test injects elements, as an attacker would.
//
// security: ASVS 3.4.3, ASVS 3.6.1, ASVS 14.3.1, LLM05:2025
func TestPagesWorkInABrowserAndRunNothingInjected(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	s := up(t, "--no-rate-limits")
	const ( // CSS selectors of elements of the page
		sign, who                    = chromedp.CSS("#sign"), chromedp.CSS("#who")
		username, secret             = chromedp.CSS("#username"), chromedp.CSS("#password")
		register                     = chromedp.CSS("#account button[value=register]")
		prompt, generate, notice     = chromedp.CSS("#prompt"), chromedp.CSS("#generate"), chromedp.CSS("#composer-notice")
		stop, again                  = chromedp.CSS("#stop"), chromedp.CSS("#again")
		text, colophon, texts, calls = chromedp.CSS("#sheet .text"), chromedp.CSS("#colophon"), chromedp.CSS("#history-items li"), chromedp.CSS(".swagger-ui .opblock")
	)
	b.do("sign up",
		chromedp.Navigate(s.URL),
		chromedp.Click(sign, chromedp.NodeVisible),
		chromedp.SendKeys(username, "isaac", chromedp.NodeVisible),
		chromedp.SendKeys(secret, apitest.Password),
		chromedp.Click(register),
		chromedp.WaitVisible(who),
	)
	const stops = `"\t", "The end"`
	b.do("write",
		chromedp.SendKeys(prompt, "The Rays of Light"),
		chromedp.SetValue(stop, stops),
		chromedp.Click(generate),
		chromedp.WaitVisible(colophon),
		chromedp.WaitVisible(texts),
	)
	b.show("text")
	written, name := read(b, "read the text", chromedp.Text(text)), read(b, "read the name", chromedp.Text(who))
	var history []client.Job
	signIn(t, s.URL, "isaac").Do("GET", "/history", "").Must(t, 200).Into(t, &history)
	if len(history) != 1 || strings.Join(strings.Fields(written), " ") != strings.Join(strings.Fields(history[0].GeneratedText), " ") || name != "isaac" {
		t.Errorf("the page shows %s %q; the history has %+v", name, written, history)
	}
	if lines := read(b, "read the colophon", chromedp.Text(colophon)); !strings.Contains(lines, stops) {
		t.Errorf("the colophon has no stop strings: %s", lines)
	}
	b.do("write it again", chromedp.SetValue(stop, `"other"`), chromedp.Click(again))
	b.show("again")
	if got := read(b, "read the stop strings", chromedp.Value(stop)); got != stops {
		t.Errorf("the repeated request stops at %s", got)
	}
	if errors := b.reported(); len(errors) > 0 {
		t.Errorf("the page reports %q", errors)
	}

	b.do("be refused",
		chromedp.SetValue(prompt, "so much h4te"),
		chromedp.Click(generate),
		chromedp.Poll[chromedp.Void](`document.querySelector("#composer-notice").textContent !== ""`),
	)
	b.show("refusal")
	if refusal := read(b, "read the refusal", chromedp.Text(notice)); !strings.Contains(refusal, "word that is not allowed") {
		t.Errorf("the refusal is %q", refusal)
	}
	b.reported() // drops the error of the 422

	// Injected elements must run nothing and load nothing.
	read(b, "inject", chromedp.Evaluate[bool](`new Promise((resolve) => {
		const make = (name) => document.body.appendChild(document.createElement(name));
		const attempts = [
			() => document.body.insertAdjacentHTML("beforeend", '<img src="data:," onerror="window.ran = true">'),
			() => make("img").setAttribute("onerror", "window.ran = true"),
			() => { make("img").src = "https://elsewhere.invalid/x.png"; },
			() => { make("script").text = "window.ran = true"; },
			() => { make("script").src = "https://elsewhere.invalid/x.js"; },
			() => { make("style").textContent = "body { display: none }"; },
			() => { make("iframe").src = "https://elsewhere.invalid/"; },
			() => fetch("https://elsewhere.invalid/").catch(() => {}),
		];
		let blocked = 0;
		document.addEventListener("securitypolicyviolation", () => { if (++blocked === attempts.length) resolve(true); });
		for (const attempt of attempts) try { attempt(); } catch { }
	})`, chromedp.EvalAwaitPromise))
	if errors, ran := b.reported(), read(b, "look", chromedp.Evaluate[bool](`window.ran === true`)); ran || len(errors) < 8 {
		t.Errorf("ran: %v; reported %q", ran, errors)
	}

	b.do("sign out", chromedp.Click(sign), chromedp.WaitNotVisible(who))
	programtest.Eventually(t, "the session is ended", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.Contains(b.requests, s.URL+"/revoke")
	})
	if left := read(b, "count", chromedp.Evaluate[int](`localStorage.length + sessionStorage.length + document.cookie.length +
		document.querySelector("#prompt").value.length + document.querySelectorAll("#history-items li").length`)); left != 0 {
		t.Errorf("%d characters and items are left after a sign-out", left)
	}
	b.reported()

	b.do("read the documentation", chromedp.Navigate(s.URL+"/docs"), chromedp.WaitVisible(calls))
	b.show("docs")
	if errors := b.reported(); len(errors) > 0 {
		t.Errorf("the documentation reports %q", errors)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, url := range b.requests {
		if !strings.HasPrefix(url, s.URL+"/") && !strings.HasPrefix(url, "data:") && !strings.HasPrefix(url, "https://elsewhere.invalid/") {
			t.Errorf("the page requested %s", url)
		}
	}
}
