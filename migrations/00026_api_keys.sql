-- +goose Up

-- One row is one API key that has not been removed. hash is the SHA-256 of the key. prefix is
-- its first characters, which the owner recognises it by. generations is the key's own limit
-- of generations per minute, or null. last_used_at is set by the database's clock, at most
-- once a minute and process. A revoked key stays until every process has read of its end.
create table api_keys (
    id           uuid        primary key,
    account      uuid        not null references accounts on delete cascade,
    hash         bytea       not null unique check (octet_length(hash) = 32),
    prefix       text        not null,
    name         text        not null,
    scopes       text[]      not null check (scopes <@ array['generate', 'read', 'admin'] and cardinality(scopes) > 0),
    generations  integer     check (generations > 0),
    created_at   timestamptz not null,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
create index api_keys_of_account on api_keys (account, id);
create index api_keys_revoked on api_keys (revoked_at) where revoked_at is not null;

-- An API key ends as a session does: its id is in ended_sessions, and every process refuses
-- the key from then on. The ids of sessions and keys never coincide.
create trigger revoked after update of revoked_at on api_keys
    for each row when (old.revoked_at is null and new.revoked_at is not null)
    execute function note_ended_session();
create trigger removed after delete on api_keys
    for each row when (old.revoked_at is null)
    execute function note_ended_session();

-- An account that is disabled or erased loses its keys with its sessions. A new key locks the
-- account's row until it is committed, so this trigger sees it.
-- +goose StatementBegin
create or replace function end_sessions_of_account() returns trigger language plpgsql as $$
begin
    update sessions set revoked_at = clock_timestamp() where account = new.id and revoked_at is null;
    update api_keys set revoked_at = clock_timestamp() where account = new.id and revoked_at is null;
    return null;
end
$$;
-- +goose StatementEnd

-- A ticket belongs to the session or to the API key that requested it. access_until is null
-- for a key that does not expire.
alter table tickets add column api_key uuid references api_keys on delete cascade;
alter table tickets alter column session drop not null;
alter table tickets alter column access_until drop not null;
alter table tickets add constraint tickets_of_one check (num_nonnulls(session, api_key) = 1);
create index tickets_of_api_key on tickets (api_key, expires_at) where api_key is not null;

grant select, insert, update, delete on api_keys to colophon_app;

-- +goose Down
-- +goose StatementBegin
do $$ begin
    if exists (select from events where type in ('key.created', 'key.revoked')) then
        raise exception 'API keys are on record, which the release before this one cannot read: restore the database from a backup';
    end if;
end $$;
-- +goose StatementEnd
delete from tickets where api_key is not null;
alter table tickets drop column api_key;
alter table tickets alter column access_until set not null;
alter table tickets alter column session set not null;
-- +goose StatementBegin
create or replace function end_sessions_of_account() returns trigger language plpgsql as $$
begin
    update sessions set revoked_at = clock_timestamp() where account = new.id and revoked_at is null;
    return null;
end
$$;
-- +goose StatementEnd
drop table api_keys;
