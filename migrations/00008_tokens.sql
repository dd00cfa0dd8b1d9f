-- +goose Up

-- One row is one session that ended before its expiry, for any reason. Triggers write
-- the rows, so that every process learns from this table alone which access tokens to
-- refuse. tx is the transaction that ended the session. A process remembers the oldest
-- transaction that was running at its last read. The next read begins with that
-- transaction, so no session is missed. A row is needed until all access tokens of the
-- session have expired.
create table ended_sessions (
    session  uuid        primary key,
    ended_at timestamptz not null default clock_timestamp(),
    tx       xid8        not null default pg_current_xact_id()
);
create index ended_sessions_news on ended_sessions (tx);
create index ended_sessions_oldest on ended_sessions (ended_at);

-- +goose StatementBegin
create function note_ended_session() returns trigger language plpgsql as $$
begin
    insert into ended_sessions (session) values (old.id) on conflict do nothing;
    return null;
end
$$;
-- +goose StatementEnd
create trigger revoked after update of revoked_at on sessions
    for each row when (old.revoked_at is null and new.revoked_at is not null)
    execute function note_ended_session();
create trigger removed after delete on sessions
    for each row when (old.revoked_at is null and old.expires_at > clock_timestamp())
    execute function note_ended_session();

-- This trigger ends all sessions of an account when the account is disabled or erased.
-- It sees the session of a concurrent sign-in, because a sign-in locks the account's
-- row until its session is committed.
-- +goose StatementBegin
create function end_sessions_of_account() returns trigger language plpgsql as $$
begin
    update sessions set revoked_at = clock_timestamp() where account = new.id and revoked_at is null;
    return null;
end
$$;
-- +goose StatementEnd
create trigger disabled after update of disabled_at on accounts
    for each row when (old.disabled_at is null and new.disabled_at is not null)
    execute function end_sessions_of_account();

-- One row is one unused ticket. hash is the SHA-256 of the ticket's secret, and path is
-- the only path that the ticket opens. The ticket expires at expires_at. access_until
-- is the expiry of the access token that requested the ticket. Redeeming a ticket
-- deletes its row.
create table tickets (
    hash         bytea       primary key check (octet_length(hash) = 32),
    session      uuid        not null references sessions on delete cascade,
    path         text        not null,
    expires_at   timestamptz not null,
    access_until timestamptz not null
);
create index tickets_of_session on tickets (session, expires_at);
create index tickets_oldest on tickets (expires_at);

grant select, insert, delete on ended_sessions, tickets to colophon_app;

-- The service deletes a retired key when the last token that the key signed has
-- expired.
grant delete on signing_keys to colophon_app;

-- +goose Down
revoke delete on signing_keys from colophon_app;
drop table tickets;
drop trigger disabled on accounts;
drop function end_sessions_of_account;
drop trigger removed on sessions;
drop trigger revoked on sessions;
drop function note_ended_session;
drop table ended_sessions;
