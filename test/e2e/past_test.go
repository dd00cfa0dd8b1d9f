package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"testing"
	"time"

	"colophon/client"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// TestRunningJobIsAnsweredLaterAsThen polls a job while it runs. Later, the answer for each
// version that was seen must have the same bytes, except the members that are not on record.
// The time of each event must give the version of that event.
func TestRunningJobIsAnsweredLaterAsThen(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := apitest.NewUser(t, s.URL, "historian")
	path := "/jobs/" + c.Submit(`{"prompt":"The rays of light","max_length":200,"seed":7}`)
	outlook := regexp.MustCompile(`"(queue_position|estimated_start_at)":[^,]*,`)
	then := map[int]string{}
	var j client.Job
	for giveUp := time.Now().Add(programtest.Patience); !j.State.Final(); {
		if time.Now().After(giveUp) {
			t.Fatalf("still %+v", j)
		}
		a := c.Do("GET", path, "").Must(t, 200)
		j = client.Job{}
		a.Into(t, &j)
		then[j.Version] = outlook.ReplaceAllString(string(a.Body), "")
	}
	history := c.Do("GET", "/history", "").Must(t, 200)
	for version, body := range then {
		if a := c.Do("GET", fmt.Sprint(path, "?at=", version), "").Must(t, 200); string(a.Body) != body {
			t.Errorf("version %d: now\n%s, then\n%s", version, a.Body, body)
		}
	}
	var all []client.Event
	c.Do("GET", path+"/events", "").Must(t, 200).Into(t, &all)
	versions := map[time.Time]int{} // the last version of each time
	for _, e := range all {
		versions[e.At] = e.Version
	}
	for at, version := range versions {
		var past struct{ Version int }
		c.Do("GET", path+"?at="+url.QueryEscape(at.Format(time.RFC3339Nano)), "").Must(t, 200).Into(t, &past)
		if past.Version != version {
			t.Errorf("version %d at the time of version %d", past.Version, version)
		}
	}
	asOf := func(at time.Time) string {
		return string(c.Do("GET", "/history?as_of="+url.QueryEscape(at.Format(time.RFC3339Nano)), "").Must(t, 200).Body)
	}
	if got := asOf(*j.FinishedAt); got != string(history.Body) {
		t.Errorf("history as of the completion: now\n%s, then\n%s", got, history.Body)
	}
	var none []json.RawMessage
	if err := json.Unmarshal([]byte(asOf(j.FinishedAt.Add(-time.Microsecond))), &none); err != nil || len(none) > 0 {
		t.Errorf("history before the completion: %s, %v", none, err)
	}
}
