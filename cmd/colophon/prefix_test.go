package main

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestClosedAccountLeavesThePrefixCache erases one of two accounts with prompts in the cache. The
// worker drops what it has of the erased account, and keeps the rest.
func TestClosedAccountLeavesThePrefixCache(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits", "--admin-listen", "127.0.0.1:0")
	admin := regexp.MustCompile(`url=(http://\S+/metrics)`).FindStringSubmatch(s.log.String())
	if admin == nil {
		t.Fatalf("the log does not name the admin listener: %s", s.log)
	}
	size := func() string {
		req, err := http.NewRequestWithContext(t.Context(), "GET", admin[1], nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		all, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`\ncolophon_prefix_cache_bytes (\S+)\n`).FindSubmatch(all)
		if found == nil {
			t.Fatalf("no size of the prefix cache in %s", all)
		}
		return string(found[1])
	}
	body := `{"prompt":"` + strings.Repeat("The Rays of Light are refracted. ", 12) + `","max_new_tokens":4}`
	kept := newUser(t, s.url, "kept")
	kept.Do("POST", "/generate", body).Must(t, 200)
	one := size()
	if one == "0" {
		t.Fatal("the prefix cache is empty after a long prompt")
	}
	closed := newUser(t, s.url, "closed")
	closed.Do("POST", "/generate", body).Must(t, 200)
	if both := size(); both == one {
		t.Errorf("%s bytes after the prompts of two users, as after one", both)
	}
	closed.Do("DELETE", "/users/me", `{"password":"`+password+`"}`).Must(t, 204)
	eventually(t, "the prompt of the closed account is dropped", func() bool { return size() == one })
}
