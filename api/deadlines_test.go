package api

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// timed is a ResponseWriter that records its deadlines.
type timed struct {
	*httptest.ResponseRecorder
	deadlines []time.Time
}

func (w *timed) SetWriteDeadline(at time.Time) error {
	w.deadlines = append(w.deadlines, at)
	return nil
}

// TestDeadlineStartsWithTheAnswer records the write deadlines. There must be no deadline
// while the handler waits, and exactly one after the answer has started.
func TestDeadlineStartsWithTheAnswer(t *testing.T) {
	w := &timed{ResponseRecorder: httptest.NewRecorder()}
	s, err := newServer(Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.deadlines(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		if len(w.deadlines) != 0 {
			t.Fatal("a deadline before the answer")
		}
		begin, rec := time.Now(), &recorder{ResponseWriter: out}
		rec.WriteHeader(http.StatusAccepted)
		for range 3 {
			if _, err := rec.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		last := w.deadlines[len(w.deadlines)-1]
		if wait, most := last.Sub(begin), s.timeouts.answer; len(w.deadlines) != 1 || wait < most || wait > most+30*time.Second {
			t.Errorf("%d deadlines, the last one after %s", len(w.deadlines), wait)
		}
		if rec.status != http.StatusAccepted || rec.bytes != 3 {
			t.Errorf("recorded %d and %d bytes", rec.status, rec.bytes)
		}
	})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if len(w.deadlines) != 1 {
		t.Error("the handler did not run, or the deadline moved")
	}
}
