package install

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"colophon/internal/pg"
)

// machine is a fake machine, on which the package managers and sudo may be missing.
type machine struct {
	programs  string // names of the programs, separated by spaces
	root      bool
	installed bool
	broken    bool     // the package does not bring the programs
	ran       []string // commands
}

func (m *machine) installer(out io.Writer) Installer {
	return Installer{
		in: strings.NewReader("y\n"), out: out,
		root: m.root,
		lookPath: func(program string) (string, error) {
			if strings.Contains(" "+m.programs+" ", " "+program+" ") {
				return "/usr/bin/" + program, nil
			}
			return "", exec.ErrNotFound
		},
		installed: func(context.Context) error {
			if m.installed {
				return nil
			}
			return pg.ErrNoServer
		},
		run: func(_ context.Context, command []string) error {
			m.ran = append(m.ran, strings.Join(command, " "))
			m.installed = !m.broken
			return nil
		},
	}
}

// TestPostgresIsInstalledOnlyWithConsent calls Ensure on machines with and without
// PostgreSQL. Each command must have been shown before it runs.
func TestPostgresIsInstalledOnlyWithConsent(t *testing.T) {
	t.Parallel()
	const update = "apt-get update"
	const install = "env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql"
	for name, c := range map[string]struct {
		machine machine
		consent bool
		ran     string // commands, separated by "; "
		want    string // part of the error; empty for no error
	}{
		"Debian as root":        {machine{programs: "apt-get sudo", root: true}, true, update + "; " + install, ""},
		"Debian with sudo":      {machine{programs: "apt-get sudo"}, true, "sudo " + update + "; sudo " + install, ""},
		"Debian without sudo":   {machine{programs: "apt-get"}, true, "", "as root"},
		"Fedora":                {machine{programs: "dnf sudo"}, true, "sudo dnf install -y postgresql-server", ""},
		"Alpine":                {machine{programs: "apk", root: true}, true, "apk add postgresql", ""},
		"macOS":                 {machine{programs: "brew sudo"}, true, "brew install postgresql@17", ""},
		"no package manager":    {machine{}, true, "", "no package manager"},
		"without consent":       {machine{programs: "apt-get", root: true}, false, "", "nobody agreed"},
		"PostgreSQL is there":   {machine{programs: "apt-get", root: true, installed: true}, true, "", ""},
		"nothing was installed": {machine{programs: "brew", broken: true}, true, "brew install postgresql@17", "not found"},
	} {
		var said bytes.Buffer
		err := c.machine.installer(&said).Ensure(t.Context(), c.consent)
		if got := strings.Join(c.machine.ran, "; "); got != c.ran || (err == nil) != (c.want == "") {
			t.Errorf("%s: ran %q, %v", name, got, err)
		}
		if err != nil && (!errors.Is(err, pg.ErrNoServer) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		for _, command := range c.machine.ran {
			if !strings.Contains(said.String(), command) {
				t.Errorf("%s: %s was not shown", name, command)
			}
		}
	}
}
