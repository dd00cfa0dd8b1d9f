package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// maxLine is the longest line that is read, in bytes.
const maxLine = 4096

// readPassword asks for a password, twice and without showing it, where there is
// somebody to ask, and otherwise reads a line.
func readPassword(ctx context.Context, t *terminal) (string, error) {
	if fd, there := terminalOf(t.in); there {
		first, err := ask(ctx, t, fd, "Password: ")
		if err != nil {
			return "", err
		}
		again, err := ask(ctx, t, fd, "Again: ")
		if err != nil {
			return "", err
		}
		if first != again {
			return "", errors.New("the two passwords differ: start again")
		}
		return first, nil
	}
	line, err := readLine(ctx, t.in)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if line == "" {
		return "", errors.New("the standard input has no password: write it in one line")
	}
	return line, nil
}

// terminalOf says whether in is a terminal, and which.
func terminalOf(in io.Reader) (fd int, there bool) {
	file, ok := in.(*os.File)
	if !ok {
		return 0, false
	}
	fd = int(file.Fd())
	return fd, term.IsTerminal(fd)
}

// readLine reads a line without its end; at the end of the input it is empty.
func readLine(ctx context.Context, in io.Reader) (string, error) {
	line, err := interruptibly(ctx, func() ([]byte, error) {
		return bufio.NewReaderSize(io.LimitReader(in, maxLine), maxLine).ReadBytes('\n')
	})
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return string(bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))), nil
}

// interruptibly returns what read does, or when ctx ends, which a read does not.
func interruptibly(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type answer struct {
		line []byte
		err  error
	}
	given := make(chan answer, 1)
	go func() {
		line, err := read()
		given <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case a := <-given:
		return a.line, a.err
	}
}

// ask reads a line from a terminal that does not show it. When ctx ends, the
// terminal is left as it was found.
func ask(ctx context.Context, t *terminal, fd int, prompt string) (string, error) {
	found, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("ask for the password: %w", err)
	}
	fmt.Fprint(t.err, prompt)
	defer fmt.Fprintln(t.err)
	line, err := interruptibly(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if ctx.Err() != nil {
		return "", errors.Join(ctx.Err(), term.Restore(fd, found))
	}
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(line), nil
}
