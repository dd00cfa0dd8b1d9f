package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
)

// triggers is the SQL of triggers that record which process writes an event, and which
// process takes or ends a lease. They run in the transaction of the write. The name of a
// process is its application_name. The recorded times are real times, even if a fault has
// changed the clock that the service sees.
const triggers = `
create schema chaos;
create table chaos.writes (
	stream text not null, version int not null, type text not null, writer text not null, at timestamptz not null, login text not null
);
create table chaos.leases (job uuid not null, held bool not null, writer text not null, at timestamptz not null);
create function chaos.wrote() returns trigger language plpgsql security definer as $$
begin
	insert into chaos.writes values (new.stream, new.version, new.type, current_setting('application_name'), pg_catalog.clock_timestamp(), session_user);
	return null;
end $$;
create trigger chaos after insert on public.events for each row execute function chaos.wrote();
create function chaos.leased() returns trigger language plpgsql security definer as $$
begin
	if tg_op = 'DELETE' then
		insert into chaos.leases values (old.job, false, current_setting('application_name'), pg_catalog.clock_timestamp());
	elsif tg_op = 'INSERT' or new.holder is distinct from old.holder then
		insert into chaos.leases values (new.job, new.holder is not null, current_setting('application_name'), pg_catalog.clock_timestamp());
	end if;
	return null;
end $$;
create trigger chaos after insert or update or delete on public.leases for each row execute function chaos.leased();`

// write records which process stored an event, and when.
type write struct {
	stream  string
	version int
	kind    string
	writer  string
	at      time.Time
}

// leaseChange records that a process took a lease, or that it ended a lease.
type leaseChange struct {
	job    uuid.UUID
	held   bool
	writer string
	at     time.Time
}

// record is the content of the database after the run.
type record struct {
	streams      map[string][]event       // the events of each job, by job id
	seeds        map[string]uint64        // the seed of each job, by job id
	writes       map[string][]write       // the writes of each job, by job id, ordered by version
	leaseChanges map[string][]leaseChange // the lease changes of each job, by job id, ordered by time
	pooled       int                      // number of events of jobs that were written through the pooler
	openLeases   int
	openEntries  int                 // queue entries that are not done
	wrongRows    []events.Difference // jobs whose row in the history view contradicts their events
	finished     map[string]bool     // whether each job is in a final state, by job id
	mixed        map[string]bool     // whether the service has told the owner that several kernel classes generated the text, by job id
	entries      map[string]string   // the queue entries and the lease of each unfinished job, by job id
	damage       damage
}

// countUnfinished returns two numbers. jobs is the number of unfinished jobs plus the
// number of leases. entries is the number of unfinished queue entries.
func countUnfinished(ctx context.Context, pool *pgxpool.Pool) (jobs, entries int, err error) {
	err = pool.QueryRow(ctx, `
		select (select count(*) from history where state in ('queued', 'running')) + (select count(*) from leases),
		(select count(*) from river.river_job where state not in ('completed', 'cancelled', 'discarded'))`).Scan(&jobs, &entries)
	if err != nil {
		return 0, 0, fmt.Errorf("count unfinished jobs: %w", err)
	}
	return jobs, entries, nil
}

// readRecord reads the record and checks the history view. It adds the jobs that cannot be
// read to d.
func readRecord(ctx context.Context, pool *pgxpool.Pool, store *events.Store, d damage) (*record, error) {
	r := &record{
		damage:  d,
		streams: map[string][]event{}, seeds: map[string]uint64{}, writes: map[string][]write{},
		leaseChanges: map[string][]leaseChange{}, finished: map[string]bool{}, mixed: map[string]bool{}, entries: map[string]string{},
	}
	rows, _ := pool.Query(ctx, `select stream, version, type, writer, at from chaos.writes where stream like 'job/%' order by stream, version`)
	writes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w write, err error) {
		err = row.Scan(&w.stream, &w.version, &w.kind, &w.writer, &w.at)
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the writers of events: %w", err)
	}
	for _, w := range writes {
		id := strings.TrimPrefix(w.stream, "job/")
		r.writes[id] = append(r.writes[id], w)
	}
	rows, _ = pool.Query(ctx, `select job, held, writer, at from chaos.leases order by at`)
	leaseChanges, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c leaseChange, err error) {
		err = row.Scan(&c.job, &c.held, &c.writer, &c.at)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the changes of leases: %w", err)
	}
	for _, c := range leaseChanges {
		r.leaseChanges[c.job.String()] = append(r.leaseChanges[c.job.String()], c)
	}
	rows, _ = pool.Query(ctx, `select stream from events where stream like 'job/%' and version = 1 order by stream`)
	streams, err := pgx.CollectRows(rows, pgx.RowTo[events.Stream])
	if err != nil {
		return nil, fmt.Errorf("list the jobs: %w", err)
	}
	for _, stream := range streams {
		if err := r.readStream(ctx, store, stream); err != nil {
			return nil, err
		}
	}
	err = pool.QueryRow(ctx, `
		select (select count(*) from leases),
		(select count(*) from river.river_job where state not in ('completed', 'cancelled')),
		(select count(*) from chaos.writes where stream like 'job/%' and login = $1)`, poolerLogin).Scan(&r.openLeases, &r.openEntries, &r.pooled)
	if err != nil {
		return nil, fmt.Errorf("count leases, queue entries and events: %w", err)
	}
	for id := range r.streams {
		if r.finished[id] {
			continue
		}
		if r.entries[id], err = queueEntries(ctx, pool, id); err != nil {
			return nil, err
		}
	}
	_, err = store.CheckHistory(ctx, events.Observer{Differs: func(d events.Difference) { r.wrongRows = append(r.wrongRows, d) }})
	return r, err
}

// queueEntries describes the queue entries and the lease of a job.
func queueEntries(ctx context.Context, pool *pgxpool.Pool, id string) (string, error) {
	rows, _ := pool.Query(ctx, `
		select format('entry %s %s, attempt %s of %s, scheduled %s', id, state, attempt, max_attempts, scheduled_at)
		from river.river_job where args->>'job' = $1
		union all
		select format('lease of %s until %s, %s crashes', coalesce(holder::text, 'nobody'), expires_at, crashes)
		from leases where job = $1::uuid`, id)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("read the queue entries of a job: %w", err)
	}
	return strings.Join(lines, "; "), nil
}

// readStream reads the events of one job into r.
func (r *record) readStream(ctx context.Context, store *events.Store, stream events.Stream) error {
	id := stream.ID().String()
	stored, err := store.Read(ctx, stream, 0)
	if errors.Is(err, events.ErrDamaged) {
		r.damage.unreadable[id] = err.Error()
		return nil
	}
	if err != nil {
		return err
	}
	writers := map[int]string{}
	for _, w := range r.writes[id] {
		writers[w.version] = w.writer
	}
	for _, s := range stored {
		// A fact has the same JSON members as the event that clients receive.
		raw, err := json.Marshal(s.Fact)
		if err != nil {
			return err
		}
		var e event
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		e.Version, e.Type, e.writer = s.Version, s.Fact.Type(), writers[s.Version]
		r.streams[id] = append(r.streams[id], e)
		r.finished[id] = e.final()
		if accepted, ok := s.Fact.(events.JobAccepted); ok {
			r.seeds[id] = accepted.Params.Seed
		}
	}
	return nil
}
