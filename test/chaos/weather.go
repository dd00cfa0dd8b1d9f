package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/internal/pg/pgtest"
)

// inject injects a fault into the primary, then makes a primary run again. It calls the
// function injected once, when the fault has taken effect.
func (p *postgres) inject(ctx context.Context, f fault, injected func()) error {
	switch f.action {
	case freeze:
		return p.freeze(ctx, f.lasts, injected)
	case shoot:
		return p.shoot(ctx, injected)
	case setClock:
		return p.setClock(ctx, f.lasts, injected)
	case promote:
		return p.promote(ctx, injected)
	case writeProtect:
		return p.writeProtect(ctx, f.lasts, injected)
	case refresh:
		p.stop(p.primary, 10*time.Second)
	default:
		p.stop(p.primary, 0)
	}
	injected()
	if err := sleep(ctx, f.lasts); err != nil {
		return err
	}
	return p.start(ctx, p.primary)
}

// backends returns the process ids of the server's processes that match an SQL condition.
// While the server does not answer, backends tries again for up to 30 seconds.
func (p *postgres) backends(ctx context.Context, condition string) ([]int, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		rows, _ := p.pool.Query(ctx, `select pid from pg_stat_activity where `+condition)
		pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err == nil {
			return pids, nil
		}
		if sleep(ctx, 100*time.Millisecond) != nil {
			return nil, fmt.Errorf("list the processes of postgres: %w", err)
		}
	}
}

// shoot kills a backend of a node, as the kernel does when memory runs out. The server then
// ends all backends and recovers. shoot returns when the server answers again.
func (p *postgres) shoot(ctx context.Context, injected func()) error {
	pids, err := p.backends(ctx, `application_name ~ '^(worker|api)-' order by backend_start desc limit 1`)
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, p.clusters[p.primary].URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	killed := false
	for _, pid := range pids {
		killed = syscall.Kill(pid, syscall.SIGKILL) == nil // the backend may have ended
	}
	injected()
	if !killed {
		return nil
	}
	// The server notices the death of a backend a little later. It then ends all statements, one
	// after the other, and takes no connection until it has recovered.
	_, _ = conn.Exec(ctx, `select pg_sleep(10)`)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return untilAvailable(ctx, func() error {
		conn, err := pgx.Connect(ctx, p.clusters[p.primary].URL())
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// clockAhead is the time by which setClock sets the clock forward. setClock never sets
// the clock back behind the real time, so that access tokens stay valid.
const clockAhead = 15 * time.Second

// setClock sets the database's clock forward for the given time, and then back.
func (p *postgres) setClock(ctx context.Context, lasts time.Duration, injected func()) error {
	if _, err := p.backends(ctx, `false`); err != nil { // waits for a recovery
		return err
	}
	if err := p.clock(ctx, clockAhead); err != nil {
		return err
	}
	injected()
	err := sleep(ctx, lasts)
	return errors.Join(err, p.clock(context.WithoutCancel(ctx), 0))
}

// clock sets the database's clock ahead of the machine's. It connects anew, because a
// recovery of the server breaks the pool's connections, and the pool notices that of each
// only when it is used.
func (p *postgres) clock(ctx context.Context, ahead time.Duration) error {
	conn, err := pgx.Connect(ctx, p.clusters[p.primary].URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return pgtest.SetClock(ctx, conn, ahead)
}

// promote kills the primary and promotes the standby, then makes the other server the
// standby. It first waits until the standby has everything that the primary has
// committed. After a crash, the primary may have commits that the standby has not
// confirmed.
func (p *postgres) promote(ctx context.Context, injected func()) error {
	if _, err := p.backends(ctx, `false`); err != nil { // waits for a recovery
		return err
	}
	if err := p.awaitStandby(ctx); err != nil {
		return err
	}
	if err := p.kill(p.primary); err != nil {
		return err
	}
	injected()
	p.primary = 1 - p.primary
	if err := p.until(ctx, p.primary, `select pg_promote()`); err != nil {
		return err
	}
	if p.promoted != nil {
		p.promoted()
	}
	return p.addStandby(ctx)
}

// writeProtect makes the primary read-only for the given time.
func (p *postgres) writeProtect(ctx context.Context, lasts time.Duration, injected func()) error {
	if _, err := p.backends(ctx, `false`); err != nil { // waits for a recovery
		return err
	}
	const setting = "default_transaction_read_only"
	if err := p.set(ctx, setting, "on"); err != nil {
		return err
	}
	injected()
	err := sleep(ctx, lasts)
	return errors.Join(err, p.set(context.WithoutCancel(ctx), setting, "off"))
}

// freeze stops all processes of the server with SIGSTOP for the given time.
func (p *postgres) freeze(ctx context.Context, lasts time.Duration, injected func()) error {
	pids, err := p.backends(ctx, `pid <> pg_backend_pid()`)
	if err != nil {
		return err
	}
	pids = append(pids, p.clusters[p.primary].PID())
	all := func(s syscall.Signal) {
		for _, pid := range pids {
			_ = syscall.Kill(pid, s) // the process may have ended
		}
	}
	// guard is a process that wakes the server even if this process dies meanwhile.
	// Otherwise the frozen server could never exit.
	guard := exec.CommandContext(context.WithoutCancel(ctx), "sh", "-c", `sleep "$1"; shift; kill -CONT "$@"`, "sh", fmt.Sprint(int(lasts.Seconds())+2))
	for _, pid := range pids {
		guard.Args = append(guard.Args, fmt.Sprint(pid))
	}
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := guard.Start(); err != nil {
		return fmt.Errorf("start the process that wakes postgres: %w", err)
	}
	defer func() {
		_ = syscall.Kill(-guard.Process.Pid, syscall.SIGKILL)
		_ = guard.Wait()
	}()
	all(syscall.SIGSTOP)
	injected()
	err = sleep(ctx, lasts)
	all(syscall.SIGCONT)
	return err
}
