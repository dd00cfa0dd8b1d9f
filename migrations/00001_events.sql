-- +goose Up

-- One row is one event, which is never changed or deleted. payload is the canonical
-- JSON of the whole event, in the exact bytes that will be hashed. The other columns
-- repeat the values that queries need. The primary key (stream, version) refuses
-- writers that have missed an event. The reference to the previous event refuses
-- writers that have seen an event that was never committed, so versions have no gaps.
-- position alone is not the order of commits. A reader of several streams reads by the
-- index that migration 18 gives.
create table events (
    stream   text        collate "C" not null check (stream ~ '^(job|account)/[0-9a-f-]{36}$'),
    version  integer     not null check (version > 0),
    owner    uuid        not null,
    type     text        not null,
    at       timestamptz not null,
    payload  bytea       not null,
    tx       xid8        not null default pg_current_xact_id(),
    position bigint      generated always as identity,
    follows  integer     generated always as (nullif(version - 1, 0)) stored,
    primary key (stream, version),
    constraint events_have_no_gaps foreign key (stream, follows) references events (stream, version)
);
create unique index events_in_commit_order on events (tx, position);
create index events_of_owner on events (owner, tx, position);

-- +goose StatementBegin
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % refused', tg_table_name, lower(tg_op)
        using errcode = 'restrict_violation';
end
$$;
-- +goose StatementEnd
create trigger append_only before update or delete or truncate on events
    for each statement execute function refuse_change();

-- One row is the current state of one job, computed from the job's events. The table
-- can be rebuilt from the events. sealed is the ciphertext of the prompt and, once the
-- job is final, of the text.
create table history (
    job               uuid        primary key,
    owner             uuid        not null,
    state             text        not null check (state in ('queued', 'running', 'completed', 'failed', 'cancelled')),
    model             text        not null,
    prompt_tokens     integer     not null,
    completion_tokens integer     not null,
    finish_reason     text        not null,
    created_at        timestamptz not null,
    started_at        timestamptz,
    finished_at       timestamptz,
    sealed            bytea
);
-- Job ids are UUIDv7, so their order is the order of acceptance.
create index history_newest_completed on history (owner, job desc) where state = 'completed';
create index history_queued on history (job) where state = 'queued';

-- One row is one owner's data key, wrapped by the master key. The erasure of an owner
-- removes the key but keeps the row, so that no new key is ever made for the owner.
create table owner_keys (
    owner      uuid        primary key,
    wrapped    bytea,
    created_at timestamptz not null default now(),
    erased_at  timestamptz,
    check ((wrapped is null) = (erased_at is not null))
);

grant select, insert on events to colophon_app;
grant select, insert, update, delete on history to colophon_app;
grant select, insert, update on owner_keys to colophon_app;

-- +goose Down
drop table owner_keys;
drop table history;
drop table events;
drop function refuse_change;
