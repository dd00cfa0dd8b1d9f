// Package console reads passwords and lines from a user, and shows progress. It works on
// terminals and on pipes. No other package uses x/term or the progress bar library.
package console

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

// maxLine is the maximum length of an input line, in bytes.
const maxLine = 4096

// ErrLongLine is the error for a line that is longer than maxLine.
var ErrLongLine = fmt.Errorf("the line is longer than %d bytes", maxLine)

// IsTerminal reports whether in is a terminal.
func IsTerminal(in io.Reader) bool {
	_, ok := terminalOf(in)
	return ok
}

// ReadPassword reads a password. On a terminal it asks for the password twice and does not
// show the input. From any other input it reads a line. When ctx is done, ReadPassword
// restores the terminal and returns the error of ctx.
func ReadPassword(ctx context.Context, in io.Reader, out io.Writer) (string, error) {
	if fd, ok := terminalOf(in); ok {
		first, err := ask(ctx, fd, out, "Password: ")
		if err != nil {
			return "", err
		}
		again, err := ask(ctx, fd, out, "Repeat password: ")
		if err != nil {
			return "", err
		}
		if first != again {
			return "", errors.New("the passwords differ")
		}
		return first, nil
	}
	line, err := ReadLine(ctx, in)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	if line == "" {
		return "", errors.New("no password on standard input: want it on one line")
	}
	return line, nil
}

// ReadLine reads a line and returns it without the line break. It returns ErrLongLine for a
// line of more than 4096 bytes. At the end of the input it returns an empty line. If ctx is
// done first, it returns the error of ctx.
func ReadLine(ctx context.Context, in io.Reader) (string, error) {
	line, err := interruptibly(ctx, func() ([]byte, error) {
		const longest = maxLine + 2 // with the line break
		return bufio.NewReaderSize(io.LimitReader(in, longest), longest).ReadBytes('\n')
	})
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
	if len(line) > maxLine {
		return "", ErrLongLine
	}
	return string(line), nil
}

// terminalOf returns the file descriptor of an input. The result ok reports whether the
// input is a terminal.
func terminalOf(in io.Reader) (fd int, ok bool) {
	file, ok := in.(*os.File)
	if !ok {
		return 0, false
	}
	fd = int(file.Fd())
	return fd, term.IsTerminal(fd)
}

// interruptibly calls the function read and returns its results. If ctx is done first,
// interruptibly returns the error of ctx. The function then continues in the background.
func interruptibly(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type result struct {
		line []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		line, err := read()
		done <- result{line, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-done:
		return r.line, r.err
	}
}

// ask reads a line from a terminal. The terminal does not show the line.
func ask(ctx context.Context, fd int, out io.Writer, prompt string) (string, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("ask for password: %w", err)
	}
	fmt.Fprint(out, prompt)
	defer fmt.Fprintln(out)
	line, err := interruptibly(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if ctx.Err() != nil {
		return "", errors.Join(ctx.Err(), term.Restore(fd, before))
	}
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return string(line), nil
}
