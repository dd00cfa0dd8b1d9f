-- +goose Up

-- A stream that ends with job.erased belongs to an erased job. There is one such event in a
-- stream. The index finds it for each row that is read, and holds nothing else.
create unique index events_erased on events (stream) where type = 'job.erased';

-- An event never changes, except that its ciphertext is emptied: after the key of its owner
-- has been destroyed, or after its job has been erased.
-- +goose StatementBegin
create or replace function allow_only_erasure() returns trigger language plpgsql as $$
declare
    emptied events := old;
begin
    emptied.sealed := null;
    emptied.follows := new.follows; -- a generated column has no value yet
    if new is not distinct from emptied and (
        exists (select from owner_keys where owner = old.owner and wrapped is null)
        or exists (select from events where stream = old.stream and type = 'job.erased')
    ) then
        return new;
    end if;
    raise exception '% is append-only: % refused', tg_table_name, lower(tg_op)
        using errcode = 'restrict_violation';
end
$$;
-- +goose StatementEnd

-- erased_at is the time at which the job was erased by itself. It is null for jobs that were
-- not erased, and for jobs whose owner was erased with all of their jobs.
alter table history add column erased_at timestamptz;

-- This index finds the ended jobs whose texts are still there, the oldest first.
create index history_retained on history (finished_at, job) where finished_at is not null and sealed is not null;

-- +goose Down
-- +goose StatementBegin
do $$ begin
    if exists (select from events where type = 'job.erased') then
        raise exception 'jobs were erased, which the release before this one cannot read: restore the database from a backup';
    end if;
end $$;
-- +goose StatementEnd
drop index history_retained;
alter table history drop column erased_at;
drop index events_erased;
-- +goose StatementBegin
create or replace function allow_only_erasure() returns trigger language plpgsql as $$
declare
    emptied events := old;
begin
    emptied.sealed := null;
    emptied.follows := new.follows; -- a generated column has no value yet
    if new is not distinct from emptied and exists (select from owner_keys where owner = old.owner and wrapped is null) then
        return new;
    end if;
    raise exception '% is append-only: % refused', tg_table_name, lower(tg_op)
        using errcode = 'restrict_violation';
end
$$;
-- +goose StatementEnd
