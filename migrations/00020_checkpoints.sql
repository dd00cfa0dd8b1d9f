-- +goose Up

-- One row is a name under which the log has checkpoints. The name with the greatest n is in
-- use. previous is the text of the last checkpoint of the name before; null for the first.
create table log_origins (
    n        integer primary key check (n > 0),
    name     text    not null unique,
    previous text
);

-- The keys that sign checkpoints (Ed25519). wrapped is the private key, sealed by the master
-- key. A key signs until it retires. While it rotates, two keys sign.
create table log_keys (
    public        bytea primary key check (octet_length(public) = 32),
    origin        text        not null references log_origins (name),
    wrapped       bytea       not null,
    master_key_id bytea       not null,
    created_at    timestamptz not null default clock_timestamp(),
    retired_at    timestamptz
);

-- One row is a published checkpoint: a signed note of c2sp.org/tlog-checkpoint. A later row
-- may have the same size and more cosignatures.
create table log_checkpoints (
    n      bigint generated always as identity primary key,
    origin text   not null references log_origins (name),
    size   bigint not null check (size > 0),
    note   text   not null
);
create index log_checkpoints_latest on log_checkpoints (origin, size, n);

create trigger append_only before update or delete or truncate on log_origins
    for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on log_checkpoints
    for each statement execute function refuse_change();

-- A checkpoint that is larger than the log could never be removed and would hide all later
-- ones.
-- +goose StatementBegin
create function refuse_wrong_checkpoint() returns trigger language plpgsql as $$
begin
    if not exists (select from log_entries where idx = new.size - 1) then
        raise exception 'a checkpoint must not be larger than the log'
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;
-- +goose StatementEnd
create trigger no_wrong_checkpoint before insert on log_checkpoints
    for each row execute function refuse_wrong_checkpoint();

grant select, insert on log_origins to colophon_app;
grant select, insert, update (retired_at) on log_keys to colophon_app;
grant select, insert on log_checkpoints to colophon_app;

-- +goose Down
drop table log_checkpoints;
drop table log_keys;
drop table log_origins;
drop function refuse_wrong_checkpoint;
