-- +goose Up

-- One row is one user or network at one limit, in a window of time. remaining is
-- the rest of the window, or -1 once a request has been refused. tokens and per
-- are set where the key has a limit of its own. Times are the database's. The
-- table is unlogged: a crash of the database loses the counts, which cover the
-- last minute. Keys are hashes, which reveal no user or address. Rows are removed
-- long after their window has ended.
create unlogged table rate_limits (
    key       bytea       primary key check (octet_length(key) = 16),
    remaining bigint      not null check (remaining >= -1),
    ends_at   timestamptz not null,
    tokens    bigint      check (tokens >= 0),
    per       interval    check (per > interval '0')
) with (fillfactor = 50);
grant select, insert, update, delete on rate_limits to colophon_app;

-- +goose Down
drop table rate_limits;
