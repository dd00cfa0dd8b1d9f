package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/client"
	"colophon/events"
)

// damage describes the damaged jobs of a run.
type damage struct {
	altered    map[string]int    // version of the event that a fault has altered, by job id
	aside      map[string]int    // version of the event that made the service set a job aside, by job id
	listed     map[string]bool   // whether the command that lists damaged jobs has printed a job, by job id
	answers    map[string]string // answer to the owner of an altered job, by job id
	unreadable map[string]string // error of the event store, by job id
}

// checkDamage checks that the service has set aside and reported every altered job, and
// no other job.
func checkDamage(d damage) (found []Violation) {
	for id, version := range d.altered {
		event := fmt.Sprintf("version %d", version)
		if got := d.answers[id]; got != client.CodeDamaged {
			found = append(found, Violation{Changed, id, "the owner of a damaged job is told", client.CodeDamaged, got})
		}
		if got, ok := d.aside[id]; !ok {
			found = append(found, Violation{Lost, id, "a damaged job is set aside", event, "no quarantine"})
		} else if got != version {
			found = append(found, Violation{Changed, id, "the quarantine names the damaged event", event, fmt.Sprintf("version %d", got)})
		}
		if !d.listed[id] {
			found = append(found, Violation{Lost, id, "a damaged job is reported", "a line of the command", "none"})
		}
	}
	for id, version := range d.aside {
		if _, ok := d.altered[id]; !ok {
			found = append(found, Violation{Lost, id, "only a damaged job is set aside", "no quarantine", fmt.Sprintf("one for version %d", version)})
		}
	}
	for id, err := range d.unreadable {
		if _, ok := d.altered[id]; !ok {
			found = append(found, Violation{Lost, id, "every stored event can be read", "no error", err})
		}
	}
	return found
}

// checkRefused checks the observations that end with the answer that the job is damaged. A
// client that waits for its job may get this answer before it knows the job's id. There is
// at most one such client for each altered job that no other client knows.
func (d damage) checkRefused(seen []observation) (found []Violation) {
	unknown := len(d.altered)
	for _, o := range seen {
		if _, ok := d.altered[o.job]; ok {
			unknown--
		}
	}
	for _, o := range seen {
		if o.job != "" || !o.refused {
			continue
		}
		if unknown--; unknown < 0 {
			found = append(found, Violation{Lost, "", "only a damaged job is refused", fmt.Sprintf("a job for request %d", o.request), client.CodeDamaged})
		}
	}
	return found
}

// alterEvent makes a stored event of an unfinished job unreadable, as a faulty disk does.
// It calls the function injected when the change is committed.
func (r *run) alterEvent(ctx context.Context, injected func()) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var stream events.Stream
	var version int
	err := untilAvailable(ctx, func() error {
		return r.postgres.pool.QueryRow(ctx, `
			select stream, version from events
			where stream = (select 'job/' || job from history where state in ('queued', 'running') order by random() limit 1)
			order by random() limit 1`).Scan(&stream, &version)
	})
	if err != nil {
		return fmt.Errorf("choose an event: %w", err)
	}
	id := stream.ID().String()
	r.mu.Lock()
	if _, ok := r.altered[id]; !ok {
		r.altered[id] = version
	}
	version = r.altered[id]
	r.mu.Unlock()
	err = untilAvailable(ctx, func() error {
		return pgx.BeginFunc(ctx, r.postgres.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `set local session_replication_role = replica`); err != nil { // turns off the trigger that forbids changes to events
				return err
			}
			// The statement may run twice, because a second run repairs nothing.
			_, err := tx.Exec(ctx, `
				update events set
					payload = case when version % 2 = 0 or sealed is null then set_byte(payload, 0, 0) else payload end,
					sealed = case when version % 2 = 0 then sealed else sealed || '\x00' end
				where stream = $1 and version = $2`, stream, version)
			return err
		})
	})
	if err == nil {
		injected()
	}
	return err
}

// untilAvailable repeats fn until fn succeeds or ctx ends.
func untilAvailable(ctx context.Context, fn func() error) error {
	for {
		err := fn()
		if err == nil || sleep(ctx, 100*time.Millisecond) != nil {
			return err
		}
	}
}

// readDamage requests the altered jobs from the service, and reads which jobs the service
// has set aside.
func (r *run) readDamage(ctx context.Context) (damage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := damage{r.altered, map[string]int{}, map[string]bool{}, map[string]string{}, map[string]string{}}
	for id := range r.altered {
		var owner string
		if err := r.postgres.pool.QueryRow(ctx, `select owner from history where job = $1::uuid`, id).Scan(&owner); err != nil {
			return d, fmt.Errorf("find the owner of a damaged job: %w", err)
		}
		i := slices.IndexFunc(r.users, func(u *user) bool { return u.id == owner })
		job, err := r.users[i].Job(ctx, id)
		if problem, ok := errors.AsType[*client.Problem](err); ok {
			d.answers[id] = problem.Code
		} else if err != nil {
			return d, fmt.Errorf("ask for a damaged job: %w", err)
		} else {
			d.answers[id] = string(job.State)
		}
	}
	rows, _ := r.postgres.pool.Query(ctx, `select stream, version from quarantine`)
	var stream events.Stream
	var version int
	_, err := pgx.ForEachRow(rows, []any{&stream, &version}, func() error {
		d.aside[strings.TrimPrefix(string(stream), "job/")] = version
		return nil
	})
	if err != nil {
		return d, fmt.Errorf("read the quarantine: %w", err)
	}
	cmd := exec.CommandContext(ctx, r.Program, "history", "damaged")
	cmd.Env = []string{"DATABASE_URL=" + r.postgres.clusters[r.postgres.primary].URL(), "COLOPHON_MASTER_KEY=" + r.key, "COLOPHON_DATA=" + r.dir}
	out, err := cmd.Output()
	if err != nil {
		return d, fmt.Errorf("list the damaged jobs: %w", err)
	}
	for _, line := range regexp.MustCompile(`(?m)^damaged\s+job/(\S+)@`).FindAllSubmatch(out, -1) {
		d.listed[string(line[1])] = true
	}
	return d, nil
}
