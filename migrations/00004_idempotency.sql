-- +goose Up

-- One row is one request that was carried out, with the stream that the request opened.
-- If the request is sent again, it must not be carried out again. key_hash is the
-- SHA-256 of the caller, the route and the Idempotency-Key. fingerprint is the SHA-256
-- of the request, encrypted with the owner's key. Rows are removed after a day.
create table idempotency_keys (
    key_hash    bytea       primary key check (octet_length(key_hash) = 32),
    owner       uuid        not null,
    stream      text        collate "C" not null,
    fingerprint bytea       not null,
    created_at  timestamptz not null default now()
);
create index idempotency_keys_oldest on idempotency_keys (created_at);
grant select, insert, delete on idempotency_keys to colophon_app;

-- deadline is the time, by the database's clock, at which an unfinished job is
-- cancelled. It is null for jobs that are older than this migration.
alter table history add column deadline timestamptz;
create index history_deadlines on history (deadline) where state in ('queued', 'running');
-- This index finds the latest finished jobs, whose run times are used for estimates.
create index history_finished on history (finished_at) where finished_at is not null;

-- +goose Down
drop index history_finished;
drop index history_deadlines;
alter table history drop column deadline;
drop table idempotency_keys;
