package processes

import (
	"net/http"
	"testing"
	"time"

	"colophon/test/apitest"
)

// TestRevokedKeyIsRefusedByEveryProcess revokes an API key at one process. Another process
// must refuse it, and end its stream, within two seconds.
//
// security: ASVS 7.4.1, ASVS 8.3.2
func TestRevokedKeyIsRefusedByEveryProcess(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	here, there := m.api("--no-rate-limits"), m.api("--no-rate-limits")
	c := newUser(t, here.URL, "keeper").Client
	for range 3 {
		var key struct{ ID, Key string }
		c.Do("POST", "/keys", `{"name":"a"}`).Must(t, 201).Into(t, &key)
		holder := apitest.Client{T: t, URL: there.URL}.As(key.Key)
		id := holder.Submit(long(1))
		ended := make(chan error, 1)
		opened := make(chan struct{})
		go func() {
			resp, err := holder.Open(t.Context(), "GET", "/jobs/"+id+"/events", "", "Accept", "text/event-stream")
			if err != nil {
				close(opened)
				ended <- err
				return
			}
			defer resp.Body.Close()
			close(opened)
			for _, err = range apitest.Messages(resp.Body) {
				if err != nil {
					break
				}
			}
			ended <- err
		}()
		<-opened
		c.Do("DELETE", "/keys/"+key.ID, "").Must(t, 204)
		begin := time.Now()
		for holder.Do("GET", "/jobs/"+id, "").Status != http.StatusUnauthorized {
			if time.Since(begin) > 20*time.Second {
				t.Fatal("the other process still accepts the key")
			}
		}
		refused := time.Since(begin)
		err := <-ended
		if took := time.Since(begin); err != nil || refused > 2*time.Second || took > 2*time.Second {
			t.Errorf("refused after %v, the stream ended after %v with %v, want 2 s at most", refused, took, err)
		} else {
			t.Logf("refused after %v, the stream ended after %v", refused, took)
		}
	}
}
