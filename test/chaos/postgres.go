package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
)

// postgres is the private server of a run. One caller at a time strikes it.
type postgres struct {
	dir  string
	bin  string
	pool *pgxpool.Pool // as the owner, without a proxy

	cluster *pg.Cluster
}

// startPostgres starts the server and a pool to watch it.
func startPostgres(ctx context.Context, dir, bin string) (*postgres, error) {
	p := &postgres{dir: filepath.Join(dir, "postgres"), bin: bin}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	var err error
	if p.pool, err = pg.Connect(ctx, p.cluster.URL(), ""); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *postgres) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cluster, err := pg.Start(ctx, p.dir, pg.Options{Bin: p.bin})
	if err == nil {
		p.cluster = cluster
	}
	return err
}

func (p *postgres) close() error {
	if p.pool != nil {
		p.pool.Close()
	}
	p.stop(0)
	select {
	case <-p.cluster.Exited():
		return nil
	default:
		return errors.New("postgres could not be stopped")
	}
}

// stop stops the server in order, or at once if that takes longer than the time. A
// server that is asked to stop while it recovers may never stop.
func (p *postgres) stop(within time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	_ = p.cluster.Stop(ctx) // an error says that the server has to recover
}

// socket returns the path of the server's socket.
func (p *postgres) socket() (string, error) {
	at, err := url.Parse(p.cluster.URL())
	if err != nil {
		return "", err
	}
	return filepath.Join(at.Query().Get("host"), ".s.PGSQL."+at.Query().Get("port")), nil
}

// strike deals a blow to the server and starts the server again afterwards. It
// calls hit once the blow has taken effect.
func (p *postgres) strike(ctx context.Context, b blow, hit func()) error {
	switch b.act {
	case freeze:
		return p.freeze(ctx, b.lasts, hit)
	case shoot:
		return p.shoot(ctx, hit)
	case refresh:
		p.stop(10 * time.Second)
	default:
		p.stop(0)
	}
	hit()
	if err := sleep(ctx, b.lasts); err != nil {
		return err
	}
	return p.start(ctx)
}

// backends returns the process ids of the server's processes. It asks again until
// the server answers, for 30 seconds.
func (p *postgres) backends(ctx context.Context, which string) ([]int, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		rows, _ := p.pool.Query(ctx, `select pid from pg_stat_activity where `+which)
		pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err == nil {
			return pids, nil
		}
		if sleep(ctx, 100*time.Millisecond) != nil {
			return nil, fmt.Errorf("list the processes of postgres: %w", err)
		}
	}
}

// shoot kills a backend that serves a process of the service, as the kernel does
// when it is out of memory. The server then ends all others and recovers.
func (p *postgres) shoot(ctx context.Context, hit func()) error {
	pids, err := p.backends(ctx, `application_name ~ '^(worker|api)-' order by backend_start desc limit 1`)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	hit()
	_, err = p.backends(ctx, `false`) // once it has recovered
	return err
}

// freeze stops all of the server's processes for a time.
func (p *postgres) freeze(ctx context.Context, lasts time.Duration, hit func()) error {
	pids, err := p.backends(ctx, `pid <> pg_backend_pid()`)
	if err != nil {
		return err
	}
	pids = append(pids, p.cluster.PID())
	all := func(s syscall.Signal) {
		for _, pid := range pids {
			_ = syscall.Kill(pid, s) // it may have ended
		}
	}
	// If this process ends meanwhile, the server must be awake to notice.
	guard := exec.CommandContext(context.WithoutCancel(ctx), "sh", "-c", `sleep "$1"; shift; kill -CONT "$@"`, "sh", fmt.Sprint(int(lasts.Seconds())+2))
	for _, pid := range pids {
		guard.Args = append(guard.Args, fmt.Sprint(pid))
	}
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := guard.Start(); err != nil {
		return fmt.Errorf("start what would wake postgres: %w", err)
	}
	defer func() {
		_ = syscall.Kill(-guard.Process.Pid, syscall.SIGKILL)
		_ = guard.Wait()
	}()
	all(syscall.SIGSTOP)
	hit()
	err = sleep(ctx, lasts)
	all(syscall.SIGCONT)
	return err
}
