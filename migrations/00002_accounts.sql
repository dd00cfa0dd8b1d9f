-- +goose Up

-- One row is one account that can sign in. Its history is in its event stream;
-- the password's hash is only here. username_key is the same for all spellings
-- of one name. The row with the zero id and an empty key stands for every name
-- without an account.
create table accounts (
    id            uuid        primary key,
    username      text        not null,
    username_key  text        collate "C" not null unique,
    password_hash text        not null,
    created_at    timestamptz not null,
    disabled_at   timestamptz
);

-- One row is one sign-in and all the access tokens that it gave.
create table sessions (
    id         uuid        primary key,
    account    uuid        not null references accounts on delete cascade,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    revoked_at timestamptz
);
create index sessions_of_account on sessions (account, expires_at);

-- The SHA-256 of every refresh token that a session has had, so that a token
-- exchanged long ago is still recognised. Changed only under a lock on the session.
create table refresh_tokens (
    hash         bytea       primary key check (octet_length(hash) = 32),
    session      uuid        not null references sessions on delete cascade,
    exchanged_at timestamptz
);
create index refresh_tokens_of_session on refresh_tokens (session);

-- Ed25519 keys that sign access tokens. kid is the RFC 7638 thumbprint of the public
-- key. wrapped is the private key's seed under the master key. The public key is
-- derived from it, so write access to this table adds no key. One key signs; retired
-- keys verify until their last signature has expired.
create table signing_keys (
    kid        text        primary key,
    wrapped    bytea       not null,
    created_at timestamptz not null,
    retired_at timestamptz
);
create unique index signing_keys_one_signs on signing_keys ((true)) where retired_at is null;

grant select, insert, update, delete on accounts, sessions, refresh_tokens to colophon_app;
grant select, insert, update on signing_keys to colophon_app;

-- +goose Down
drop table signing_keys;
drop table refresh_tokens;
drop table sessions;
drop table accounts;
