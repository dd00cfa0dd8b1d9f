-- +goose Up

-- One row is one account that can sign in. The account's history is in its event
-- stream, but the password hash is only in this table. username_key is the same for all
-- spellings of one name. The row with the zero id and an empty username_key stands for
-- every name without an account.
create table accounts (
    id            uuid        primary key,
    username      text        not null,
    username_key  text        collate "C" not null unique,
    password_hash text        not null,
    created_at    timestamptz not null,
    disabled_at   timestamptz
);

-- One row is one session. A session begins with a sign-in and covers all access tokens
-- that are issued in it.
create table sessions (
    id         uuid        primary key,
    account    uuid        not null references accounts on delete cascade,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    revoked_at timestamptz
);
create index sessions_of_account on sessions (account, expires_at);

-- One row is one refresh token, stored as its SHA-256. All tokens that a session has
-- had are kept, so that a token exchanged long ago is still recognised. A transaction
-- must lock the session before it changes the session's rows here.
create table refresh_tokens (
    hash         bytea       primary key check (octet_length(hash) = 32),
    session      uuid        not null references sessions on delete cascade,
    exchanged_at timestamptz
);
create index refresh_tokens_of_session on refresh_tokens (session);

-- One row is one Ed25519 key that signs access tokens. kid is the RFC 7638 thumbprint
-- of the public key. wrapped is the private key's seed, encrypted with the master key.
-- The public key is derived from the seed, so write access to this table is not enough
-- to add a key. Only one key signs at a time. A retired key verifies tokens until the
-- last token that it signed has expired.
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
