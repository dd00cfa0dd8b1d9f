package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"colophon/internal/console"
	"colophon/internal/pg"
)

type installFlags struct {
	InstallPostgres bool `help:"Install PostgreSQL with the package manager of the system if this machine lacks it. The commands are shown first. Without the flag, up asks on a terminal ($COLOPHON_INSTALL_POSTGRES)."`
}

// installer installs PostgreSQL with the package manager of the system.
type installer struct {
	root      bool // whether this process may install packages
	lookPath  func(program string) (string, error)
	installed func(context.Context) error // pg.ErrNoServer if PostgreSQL is missing
	run       func(ctx context.Context, command []string) error
}

// installer returns the installer of this machine.
func (f *databaseFlags) installer(t *terminal) installer {
	return installer{
		root:     os.Geteuid() == 0,
		lookPath: exec.LookPath,
		installed: func(ctx context.Context) error {
			return pg.Installed(ctx, f.clusterDir(), f.PGBin)
		},
		run: func(ctx context.Context, command []string) error {
			cmd := exec.CommandContext(ctx, command[0], command[1:]...)
			// A killed package manager could leave a half-installed package.
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			if in, ok := t.in.(*os.File); ok {
				cmd.Stdin = in // sudo asks for a password
			}
			// Standard output is for the line that says when the service is ready.
			cmd.Stdout, cmd.Stderr = t.err, t.err
			return cmd.Run()
		},
	}
}

// ensure installs PostgreSQL if it is missing and the user consents, by the flag or on the
// terminal.
func (i installer) ensure(ctx context.Context, consent bool, t *terminal) error {
	err := i.installed(ctx)
	if !errors.Is(err, pg.ErrNoServer) {
		return nil // any other error is reported at the start of the server
	}
	commands, commandsErr := i.commands()
	if commandsErr != nil {
		if consent {
			err = fmt.Errorf("--install-postgres: %w\n%w", commandsErr, err)
		}
		return err
	}
	fmt.Fprintln(t.err, "PostgreSQL is missing on this machine. These commands install it:")
	for _, command := range commands {
		fmt.Fprintln(t.err, "  "+strings.Join(command, " "))
	}
	if !consent {
		if !console.IsTerminal(t.in) {
			return fmt.Errorf("%w\nwith --install-postgres, `colophon up` runs the commands above", err)
		}
		if consent, err = confirm(ctx, t); err != nil || !consent {
			return errors.Join(err, pg.ErrNoServer)
		}
	}
	for _, command := range commands {
		if err := i.run(ctx, command); err != nil {
			return fmt.Errorf("install PostgreSQL: %s: %w", strings.Join(command, " "), err)
		}
	}
	if err := i.installed(ctx); errors.Is(err, pg.ErrNoServer) {
		return fmt.Errorf("the package was installed, but its programs were not found: %w", err)
	}
	return nil
}

// confirm asks whether to run the commands.
func confirm(ctx context.Context, t *terminal) (bool, error) {
	fmt.Fprint(t.err, "Run them now? [y/N] ")
	line, err := console.ReadLine(ctx, t.in)
	if err != nil {
		return false, fmt.Errorf("read answer: %w", err)
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}

// commands returns the commands that install PostgreSQL on this system.
func (i installer) commands() ([][]string, error) {
	managers := [][][]string{
		{
			{"apt-get", "update"},
			{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends", "postgresql"},
		},
		{{"dnf", "install", "-y", "postgresql-server"}},
		{{"apk", "add", "postgresql"}},
		{{"brew", "install", "postgresql@17"}},
	}
	for _, commands := range managers {
		manager := commands[0][0]
		if _, err := i.lookPath(manager); err != nil {
			continue
		}
		if i.root || manager == "brew" { // brew installs for the user
			return commands, nil
		}
		if _, err := i.lookPath("sudo"); err != nil {
			return nil, fmt.Errorf("%s needs root, and sudo is missing: install PostgreSQL as root", manager)
		}
		for n := range commands {
			commands[n] = append([]string{"sudo"}, commands[n]...)
		}
		return commands, nil
	}
	return nil, errors.New("no package manager found (apt-get, dnf, apk or brew)")
}
