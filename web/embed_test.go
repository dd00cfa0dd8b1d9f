package web_test

import (
	"io/fs"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"colophon/web"
)

// TestPageFitsItsPolicy reads the pages and their files. Everything that the files refer
// to must exist on this service. The files must work under a policy without unsafe-*
// sources, and load nothing from other hosts.
//
// security: ASVS 1.3.2, ASVS 3.2.2, ASVS 3.6.1, ASVS 14.3.3, LLM05:2025
func TestPageFitsItsPolicy(t *testing.T) {
	texts := map[string]string{"index.html": web.Page(), "verify.html": web.VerifyPage()}
	err := fs.WalkDir(web.Assets(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(web.Assets(), name)
		texts["/assets/"+name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|javascript:|<script[^>]*>[^<]`)
	for _, name := range []string{"index.html", "verify.html"} {
		if m := inline.FindString(texts[name]); m != "" {
			t.Errorf("%s contains %q", name, m)
		}
	}
	// An address in a comment does not count, because browsers do not fetch it. The
	// address of the SVG namespace does not count either, because it is only a name.
	comment := regexp.MustCompile(`(?m)^\s*//.*$`)
	host := regexp.MustCompile(`(?i:https?://)[^\s"'<>)]+|["'(]//[a-z]|@import|url\(`)
	sink := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|(local|session)Storage|indexedDB|document\.cookie`)
	for name, text := range texts {
		code := comment.ReplaceAllString(text, "")
		for _, m := range host.FindAllString(code, -1) {
			if m != "http://www.w3.org/2000/svg" {
				t.Errorf("%s refers to %s", name, m)
			}
		}
		if m := sink.FindString(code); m != "" {
			t.Errorf("%s uses %s", name, m)
		}
	}

	routes := []string{"/", "/docs", "/openapi.json", "/verify"}
	reference := regexp.MustCompile(`(?:src|href|from|action)[= ]"([^"]+)"`)
	used := map[string]bool{}
	for name, text := range texts {
		for _, m := range reference.FindAllStringSubmatch(text, -1) {
			target := m[1]
			if strings.HasPrefix(target, "./") {
				target = path.Join(path.Dir(name), target)
			}
			if _, ok := texts[target]; ok {
				used[target] = true
			} else if !slices.Contains(routes, target) {
				t.Errorf("%s refers to %s, which does not exist", name, target)
			}
		}
	}
	for name := range texts {
		if path.Ext(name) != ".html" && !used[name] {
			t.Errorf("%s is not used", name)
		}
	}
}

// TestScriptsFindTheirElements looks for every id that a script or its page refers to.
// Each of these ids must be on the page exactly once.
func TestScriptsFindTheirElements(t *testing.T) {
	scripts, err := fs.Glob(web.Assets(), "*.js")
	if err != nil {
		t.Fatal(err)
	}
	for name, page := range map[string]string{"index.html": web.Page(), "verify.html": web.VerifyPage()} {
		ids := map[string]int{}
		for _, m := range regexp.MustCompile(`\sid="([^"]+)"`).FindAllStringSubmatch(page, -1) {
			ids[m[1]]++
		}
		for id, n := range ids {
			if n != 1 {
				t.Errorf("%s: %d elements have the id %s", name, n, id)
			}
		}
		for _, m := range regexp.MustCompile(`\s(?:for|aria-labelledby|aria-describedby)="([^"]+)"`).FindAllStringSubmatch(page, -1) {
			for id := range strings.FieldsSeq(m[1]) {
				if ids[id] == 0 {
					t.Errorf("%s refers to #%s, which is not on it", name, id)
				}
			}
		}
		found := 0
		for _, script := range scripts {
			if (script == "verify.js") != (name == "verify.html") {
				continue // the script belongs to the other page
			}
			code, err := fs.ReadFile(web.Assets(), script)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`find\("([^"]+)"\)`).FindAllSubmatch(code, -1) {
				if found++; ids[string(m[1])] == 0 {
					t.Errorf("%s looks for #%s, which is not on %s", script, m[1], name)
				}
			}
		}
		if found == 0 {
			t.Errorf("no script looks for an element of %s", name)
		}
	}
}

// TestPasswordFieldsSuitPasswordManagers reads the password fields of the page. They must
// hide the password, allow pasting, and be marked for password managers.
//
// security: ASVS 6.2.6, ASVS 6.2.7
func TestPasswordFieldsSuitPasswordManagers(t *testing.T) {
	found := 0
	for _, field := range regexp.MustCompile(`<input[^>]*>`).FindAllString(web.Page(), -1) {
		if !strings.Contains(field, "password") {
			continue
		}
		found++
		if !strings.Contains(field, `type="password"`) || !regexp.MustCompile(`autocomplete="(current|new)-password"`).MatchString(field) {
			t.Errorf("%s", field)
		}
	}
	if found == 0 {
		t.Error("there is no field for a password")
	}
	scripts, err := fs.Glob(web.Assets(), "*.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range scripts {
		code, err := fs.ReadFile(web.Assets(), script)
		if m := regexp.MustCompile(`["']paste["']|onpaste`).Find(code); err != nil || m != nil {
			t.Errorf("%s handles %s, %v", script, m, err)
		}
	}
}

// TestModulesPassTheirOwnTests runs the tests in test/. These tests cover the
// JavaScript modules that need no page.
func TestModulesPassTheirOwnTests(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is missing: install it to test the modules of the page (Debian: apt-get install nodejs; macOS: brew install node)")
	}
	out, err := exec.CommandContext(t.Context(), node, "--test").CombinedOutput()
	if err != nil {
		t.Errorf("node --test: %v\n%s", err, out)
	}
}
