package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"colophon/client"
	"colophon/test/apitest"
	"colophon/test/browser"
	"colophon/test/program/programtest"
)

// TestPagesWorkInABrowserAndRunNothingInjected registers, generates a text and signs out
// on the page, under the Content-Security-Policy of the service. Before the sign-out the
// test injects elements, as an attacker would.
//
// security: ASVS 3.4.3, ASVS 3.6.1, ASVS 14.3.1, LLM05:2025
func TestPagesWorkInABrowserAndRunNothingInjected(t *testing.T) {
	t.Parallel()
	b := browser.New(t)
	s := up(t, "--no-rate-limits")
	const ( // CSS selectors of elements of the page
		sign, who                    = chromedp.CSS("#sign"), chromedp.CSS("#who")
		username, secret             = chromedp.CSS("#username"), chromedp.CSS("#password")
		register                     = chromedp.CSS("#account button[value=register]")
		prompt, generate, notice     = chromedp.CSS("#prompt"), chromedp.CSS("#generate"), chromedp.CSS("#composer-notice")
		stop, again                  = chromedp.CSS("#stop"), chromedp.CSS("#again")
		text, colophon, texts, calls = chromedp.CSS("#sheet .text"), chromedp.CSS("#colophon"), chromedp.CSS("#history-items li"), chromedp.CSS(".swagger-ui .opblock")
	)
	b.Do("sign up",
		chromedp.Navigate(s.URL),
		chromedp.Click(sign, chromedp.NodeVisible),
		chromedp.SendKeys(username, "isaac", chromedp.NodeVisible),
		chromedp.SendKeys(secret, apitest.Password),
		chromedp.Click(register),
		chromedp.WaitVisible(who),
	)
	const stops = `"\t", "The end"`
	b.Do("write",
		chromedp.SendKeys(prompt, "The Rays of Light"),
		chromedp.SetValue(stop, stops),
		chromedp.Click(generate),
		chromedp.WaitVisible(colophon),
		chromedp.WaitVisible(texts),
	)
	b.Show("text")
	written, name := browser.Read(b, "read the text", chromedp.Text(text)), browser.Read(b, "read the name", chromedp.Text(who))
	var history []client.Job
	signIn(t, s.URL, "isaac").Do("GET", "/history", "").Must(t, 200).Into(t, &history)
	if len(history) != 1 || strings.Join(strings.Fields(written), " ") != strings.Join(strings.Fields(history[0].GeneratedText), " ") || name != "isaac" {
		t.Errorf("the page shows %s %q; the history has %+v", name, written, history)
	}
	if lines := browser.Read(b, "read the colophon", chromedp.Text(colophon)); !strings.Contains(lines, stops) {
		t.Errorf("the colophon has no stop strings: %s", lines)
	}
	b.Do("write it again", chromedp.SetValue(stop, `"other"`), chromedp.Click(again))
	b.Show("again")
	if got := browser.Read(b, "read the stop strings", chromedp.Value(stop)); got != stops {
		t.Errorf("the repeated request stops at %s", got)
	}
	if errors := b.Reported(); len(errors) > 0 {
		t.Errorf("the page reports %q", errors)
	}

	b.Do("be refused",
		chromedp.SetValue(prompt, "so much h4te"),
		chromedp.Click(generate),
		chromedp.Poll[chromedp.Void](`document.querySelector("#composer-notice").textContent !== ""`),
	)
	b.Show("refusal")
	if refusal := browser.Read(b, "read the refusal", chromedp.Text(notice)); !strings.Contains(refusal, "word that is not allowed") {
		t.Errorf("the refusal is %q", refusal)
	}
	b.Reported() // drops the error of the 422

	// Injected elements must run nothing and load nothing.
	browser.Read(b, "inject", chromedp.Evaluate[bool](`new Promise((resolve) => {
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
	if errors, ran := b.Reported(), browser.Read(b, "look", chromedp.Evaluate[bool](`window.ran === true`)); ran || len(errors) < 8 {
		t.Errorf("ran: %v; reported %q", ran, errors)
	}

	b.Do("sign out", chromedp.Click(sign), chromedp.WaitNotVisible(who))
	programtest.Eventually(t, "the session is ended", func() bool {
		return slices.Contains(b.Requests(), s.URL+"/revoke")
	})
	if left := browser.Read(b, "count", chromedp.Evaluate[int](`localStorage.length + sessionStorage.length + document.cookie.length +
		document.querySelector("#prompt").value.length + document.querySelectorAll("#history-items li").length`)); left != 0 {
		t.Errorf("%d characters and items are left after a sign-out", left)
	}
	b.Reported()

	b.Do("read the documentation", chromedp.Navigate(s.URL+"/docs"), chromedp.WaitVisible(calls))
	b.Show("docs")
	if errors := b.Reported(); len(errors) > 0 {
		t.Errorf("the documentation reports %q", errors)
	}
	for _, url := range b.Requests() {
		if !strings.HasPrefix(url, s.URL+"/") && !strings.HasPrefix(url, "data:") && !strings.HasPrefix(url, "https://elsewhere.invalid/") {
			t.Errorf("the page requested %s", url)
		}
	}
}
