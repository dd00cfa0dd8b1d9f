-- +goose Up

-- One row is one redeemed ticket whose stream may be opened again. hash is the SHA-256 of the
-- ticket and of the proof that only readers of the stream have. path is the only path that
-- the row opens. The row expires an hour after the ticket was redeemed at the latest, and
-- with its session or API key. A process of an earlier release does not read this table, so
-- it refuses a redeemed ticket.
create table resumptions (
    hash       bytea       primary key check (octet_length(hash) = 32),
    session    uuid        references sessions on delete cascade,
    api_key    uuid        references api_keys on delete cascade,
    path       text        not null,
    expires_at timestamptz not null,
    check (num_nonnulls(session, api_key) = 1)
);
create index resumptions_of_session on resumptions (session, expires_at) where session is not null;
create index resumptions_of_api_key on resumptions (api_key, expires_at) where api_key is not null;
create index resumptions_oldest on resumptions (expires_at);

grant select, insert, delete on resumptions to colophon_app;

-- +goose Down
drop table resumptions;
