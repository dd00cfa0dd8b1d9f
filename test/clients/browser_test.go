package clients

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"colophon/test/browser"
)

// followInPage opens a ticket's stream with the browser's own EventSource, and returns the data
// of its messages and the number of times that it was opened when the EventSource gives up.
const followInPage = `new Promise((resolve) => {
	const got = { data: [], opened: 0 };
	const source = new EventSource(%q);
	source.addEventListener("open", () => got.opened++);
	for (const type of ["accepted", "reassigned", "started", "advanced", "completed", "failed", "cancelled", "erased"])
		source.addEventListener("job." + type, (message) => got.data.push(message.data));
	source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) resolve(got); });
})`

// testBrowser follows jobs in Chromium. The page comes through the proxy too, whole, so that the
// streams are of its origin.
func testBrowser(t *testing.T, s *service) {
	b := browser.New(t)
	scenario(t, "Chromium's EventSource", "of the system", "a ticket's stream resumes after cuts anywhere, at two processes, byte for byte", func(t *testing.T) {
		t.Log(browser.Read(b, "version", chromedp.Evaluate[string](`navigator.userAgent`)))
		user := s.user(t, "browser")
		cut := newCutter(t, s, 1)
		b.Do("load the page", chromedp.Navigate(cut.url+"/"), chromedp.WaitReady(chromedp.CSS("body")))
		cut.cut(cuts)
		resumed := 0
		for resumed < 3 {
			var data []string
			id := submit(t, user, 1)[0]
			for ended := false; !ended; { // a cut before the first message takes the ticket too
				var ticket struct{ URL string }
				user.Do("POST", "/jobs/"+id+"/ticket", "").Must(t, 200).Into(t, &ticket)
				script := fmt.Sprintf(followInPage, fmt.Sprintf("%s&after=%d", ticket.URL, len(data)))
				got := browser.Read(b, "follow", chromedp.Evaluate[struct {
					Data   []string
					Opened int
				}](script, chromedp.EvalAwaitPromise))
				data = append(data, got.Data...)
				resumed += max(0, got.Opened-1)
				ended = len(data) > 0 && strings.Contains(data[len(data)-1], `"type":"job.completed"`)
			}
			compare(t, jobEvents(t, user, []string{id}), map[string]followed{id: {Data: data}}, asBytes)
		}
		t.Logf("%d streams resumed after %d cuts", resumed, cut.made.Load())
	})
}
