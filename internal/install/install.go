// Package install installs PostgreSQL with the package manager of the system: apt-get,
// dnf, apk or brew. It shows each command before it runs the command, and runs none
// without consent. A user other than root needs sudo, except for brew.
package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"colophon/internal/console"
	"colophon/internal/pg"
)

// ErrNoConsent occurs when PostgreSQL is missing and there is nobody to ask.
var ErrNoConsent = errors.New("PostgreSQL was not installed, because nobody agreed to it")

// Installer installs PostgreSQL with the package manager of the system.
type Installer struct {
	in        io.Reader // answers questions
	out       io.Writer // gets questions and the output of the commands
	root      bool      // whether this process may install packages
	lookPath  func(program string) (string, error)
	installed func(context.Context) error // pg.ErrNoServer if PostgreSQL is missing
	run       func(ctx context.Context, command []string) error
}

// New returns the installer of this machine. PostgreSQL is missing if pg.Installed does not
// find it for the directories of the cluster and of the programs. Questions are read from
// in and written to out.
func New(cluster, bin string, in io.Reader, out io.Writer) Installer {
	return Installer{
		in: in, out: out,
		root:     os.Geteuid() == 0,
		lookPath: exec.LookPath,
		installed: func(ctx context.Context) error {
			return pg.Installed(ctx, cluster, bin)
		},
		run: func(ctx context.Context, command []string) error {
			cmd := exec.CommandContext(ctx, command[0], command[1:]...)
			// A killed package manager could leave a half-installed package.
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			if file, ok := in.(*os.File); ok {
				cmd.Stdin = file // sudo asks for a password
			}
			cmd.Stdout, cmd.Stderr = out, out
			return cmd.Run()
		},
	}
}

// Ensure installs PostgreSQL if it is missing and the user consents. If consent is false,
// Ensure asks on the terminal. Without a terminal it returns ErrNoConsent. Every error
// wraps pg.ErrNoServer, unless a command failed.
func (i Installer) Ensure(ctx context.Context, consent bool) error {
	err := i.installed(ctx)
	if !errors.Is(err, pg.ErrNoServer) {
		return nil // any other error is reported at the start of the server
	}
	commands, commandsErr := i.commands()
	if commandsErr != nil {
		if consent {
			err = fmt.Errorf("%w\n%w", commandsErr, err)
		}
		return err
	}
	fmt.Fprintln(i.out, "PostgreSQL is missing on this machine. These commands install it:")
	for _, command := range commands {
		fmt.Fprintln(i.out, "  "+strings.Join(command, " "))
	}
	if !consent {
		if !console.IsTerminal(i.in) {
			return fmt.Errorf("%w\n%w", err, ErrNoConsent)
		}
		if consent, err = i.confirm(ctx); err != nil || !consent {
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
func (i Installer) confirm(ctx context.Context) (bool, error) {
	fmt.Fprint(i.out, "Run them now? [y/N] ")
	line, err := console.ReadLine(ctx, i.in)
	if err != nil {
		return false, fmt.Errorf("read answer: %w", err)
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}

// commands returns the commands that install PostgreSQL on this system.
func (i Installer) commands() ([][]string, error) {
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
