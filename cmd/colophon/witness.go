package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"colophon/events/receipt"
	"colophon/internal/httpd"
	"colophon/internal/witness"
)

type witnessCmd struct {
	Listen string   `default:"127.0.0.1:8100" var:"COLOPHON_WITNESS_LISTEN" help:"Address and port of the witness ($COLOPHON_WITNESS_LISTEN)."`
	Log    []string `required:"" name:"log" type:"existingfile" var:"COLOPHON_WITNESS_LOG" placeholder:"FILE" help:"File with the keys of a log, as its /log/key answers them. May be given several times ($COLOPHON_WITNESS_LOG)."`
	Key    string   `required:"" type:"path" var:"COLOPHON_WITNESS_KEY" placeholder:"FILE" help:"File of the witness's private key. It is made if it is missing ($COLOPHON_WITNESS_KEY)."`
	Name   string   `var:"COLOPHON_WITNESS_NAME" placeholder:"NAME" help:"Name of a new key, such as witness.example.com ($COLOPHON_WITNESS_NAME)."`
	State  string   `required:"" type:"path" var:"COLOPHON_WITNESS_STATE" placeholder:"FILE" help:"File in which the witness keeps what it has seen. Without it, a witness would believe a log that has lost events ($COLOPHON_WITNESS_STATE)."`
}

// Run serves a witness until ctx is done.
func (c *witnessCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) (err error) {
	keys, err := c.keys()
	if err != nil {
		return &usageError{err}
	}
	cosigner, err := witness.LoadKey(c.Key, c.Name)
	if err != nil {
		return &usageError{err}
	}
	w, err := witness.Open(cosigner, keys, c.State)
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }() // only releases the lock
	l, err := listen(ctx, "--listen", c.Listen, httpd.ListenOptions{MaxConnections: 100, Log: log})
	if err != nil {
		return err
	}
	defer l.Close()
	servers := httpd.NewServers(ctx, log)
	defer servers.Close()
	servers.Serve(l, w.Handler(log))
	fmt.Fprintf(t.out, "%s\nready %s\n", cosigner, l.URL())
	select {
	case err := <-servers.Failed():
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return servers.Shutdown(ctx)
}

// keys reads the keys of the logs.
func (c *witnessCmd) keys() (keys receipt.Keys, err error) {
	for _, path := range c.Log {
		of, err := readKeys(path)
		if err != nil {
			return nil, fmt.Errorf("--log: %w", err)
		}
		keys = append(keys, of...)
	}
	return keys, nil
}

// readKeys reads a file with the keys of a log.
func readKeys(path string) (receipt.Keys, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	keys, err := receipt.ParseKeys(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}
